"""What every strategy promises, whatever it looks at."""

from __future__ import annotations

import typing
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpamatch.domain.candidates import Taken
from mpamatch.domain.strategies import STRATEGIES, strategy
from mpamatch.domain.strategy_names import STRATEGY_NAMES, StrategyName
from mpamatch.errors import BadInput
from tests.mpamatch.domain.candidates import LOOSE, POLICY, batch, candidates, rows_of

NAMES = sorted(STRATEGIES)


def test_every_name_has_a_strategy_and_an_unknown_one_is_refused() -> None:
    assert set(STRATEGIES) == set(STRATEGY_NAMES) == set(typing.get_args(StrategyName))
    with pytest.raises(BadInput, match="one of mpamatch, random"):
        strategy("best")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("embedded", [True, False])
@pytest.mark.parametrize("size", [1, 10, 60, 200])
def test_it_picks_as_many_as_are_asked_for_each_once_and_says_all_of_them(name: str, embedded: bool, size: int) -> None:
    found = candidates(60, embedded=embedded)
    picks = STRATEGIES[name].pick(found, batch(size))
    assert len(picks) == min(size, 60)
    assert len(set(picks.ids.tolist())) == len(picks)
    assert set(picks.ids.tolist()) <= set(found.ids.tolist())
    assert set(picks.strata) <= {"score", "class", "exploration"}
    assert ((picks.propensity > 0) & (picks.propensity <= 1)).all()
    assert all((c >= 0) == (s == "class") for c, s in zip(picks.classes, picks.strata, strict=True))
    assert np.isfinite(picks.score).all()
    assert np.isfinite(picks.noise).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_rows_changes_nothing(name: str) -> None:
    orders = [None, np.arange(60)[::-1], np.random.default_rng(2).permutation(60)]
    first, *others = [STRATEGIES[name].pick(candidates(60, order=order), batch(20)) for order in orders]
    for picks in others:
        assert picks.ids.tolist() == first.ids.tolist()
        assert picks.strata == first.strata
        assert np.array_equal(picks.score, first.score)
        assert np.array_equal(picks.noise, first.noise)
        assert np.array_equal(picks.propensity, first.propensity)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_batch_and_another_one_may_not(name: str) -> None:
    found = candidates(60)
    one, same, other = (STRATEGIES[name].pick(found, batch(20, seed=seed)) for seed in (1, 1, 2))
    assert one.ids.tolist() == same.ids.tolist()
    by_chance = name in ("mpamatch", "random", "foreground-random")
    assert (one.ids.tolist() != other.ids.tolist()) is by_chance or name == "coreset"


@pytest.mark.parametrize("name", NAMES)
def test_what_is_closed_is_not_picked(name: str) -> None:
    found = candidates(60)
    closed = np.zeros(60, bool)
    closed[:40] = True
    picks = STRATEGIES[name].pick(found, batch(30, closed=closed))
    assert sorted(rows_of(found, picks)) == list(range(40, 60))


@pytest.mark.parametrize("name", NAMES)
def test_picks_do_not_overlap(name: str) -> None:
    boxes = np.array([[10 * (n // 2), 0, 15, 10] for n in range(60)])
    found = candidates(60, boxes=boxes, images=np.zeros(60, np.int64))
    rows = rows_of(found, STRATEGIES[name].pick(found, batch(60)))
    left = np.sort(boxes[rows][:, 0])
    assert len(rows) >= 10
    assert (np.diff(left) >= 15).all()


squares = st.lists(st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 12)] * 2), min_size=1, max_size=20)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15)
@given(squares, squares, st.integers(1, 12), st.integers(0, 1000))
def test_what_shares_a_pixel_with_what_is_labelled_or_queued_is_not_picked(name, rows, held, size, seed) -> None:
    count, images = len(rows), np.arange(len(rows)) % 2
    taken = Taken(np.arange(len(held)) % 2, np.array(held))
    found = candidates(count, seed % 7, boxes=np.array(rows), images=images)
    painted = np.zeros((2, 50, 50), bool)
    for image, (x, y, width, height) in zip(taken.images, held, strict=True):
        painted[image, y : y + height, x : x + width] = True
    closed = np.arange(count) % 5 == 0
    picks = STRATEGIES[name].pick(found, batch(size, seed=seed, taken=taken, closed=closed))
    for row in rows_of(found, picks):
        x, y, width, height = rows[row]
        there = painted[images[row], y : y + height, x : x + width]
        assert not there.any()
        there[:] = True
        assert not closed[row]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_pick_from_is_an_empty_batch(name: str) -> None:
    assert len(STRATEGIES[name].pick(candidates(0), batch(5))) == 0
    assert len(STRATEGIES[name].pick(candidates(5), batch(0))) == 0


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("mpamatch", "random", "foreground-random", "coreset")])
def test_a_greedy_one_takes_the_rows_of_the_most_worth(name: str) -> None:
    found = candidates(60)
    f = found.factors
    stretch = f.uncertainty[~np.isnan(f.bald)].sum() / np.nansum(f.bald)
    cost = np.minimum((3 + 1.1 * f.clicks) / 69, 1)
    expected = {
        "entropy": f.uncertainty,
        "margin": -f.margin,
        "bald": np.where(np.isnan(f.bald), f.uncertainty, np.minimum(f.bald * stretch, 1)),
        "ripu": f.impurity * f.uncertainty,
        "disagreement": f.disagreement,
        "oracle": f.true_error * f.area_px / (f.area_px + 256) / np.sqrt(0.25 + 0.75 * cost),
    }[name]
    best_first = np.lexsort((np.arange(60), -expected))
    assert rows_of(found, STRATEGIES[name].pick(found, batch(12))) == best_first[:12].tolist()


def test_the_oracle_needs_the_truth() -> None:
    found = candidates(10)
    blind = replace(found, factors=replace(found.factors, true_error=np.full(10, np.nan)))
    with pytest.raises(BadInput, match="simulations"):
        STRATEGIES["oracle"].pick(blind, batch(2))


def test_a_coreset_is_a_k_center_over_all_rows_seeded_with_labels() -> None:
    found = candidates(60)
    rows = rows_of(found, STRATEGIES["coreset"].pick(found, batch(6)))
    nearest = 1 - found.factors.distance
    for row in rows:
        assert nearest[row] == pytest.approx(np.delete(nearest, rows[: rows.index(row)]).min(), abs=1e-4)
        nearest = np.maximum(nearest, found.vectors @ found.vectors[row])


def test_caps_and_noise_are_knobs_of_mpamatch_alone() -> None:
    crowded = candidates(60, images=np.zeros(60, np.int64), groups=np.zeros(60, np.int64))
    greedy = rows_of(crowded, STRATEGIES["entropy"].pick(crowded, batch(12)))
    assert greedy == np.argsort(-crowded.factors.uncertainty)[:12].tolist()


# Chance


@pytest.mark.parametrize("name", ["random", "foreground-random"])
@pytest.mark.parametrize("size", [4, 7])
def test_the_recorded_propensity_is_how_often_a_row_is_drawn(name: str, size: int) -> None:
    found = candidates(24)
    drawn, told = np.zeros(24), np.zeros(24)
    trials = 800
    for seed in range(trials):
        picks = STRATEGIES[name].pick(found, batch(size, seed=seed, place=seed % 2))
        rows = rows_of(found, picks)
        drawn[rows] += 1
        told[rows] += 1 / picks.propensity
    # Horvitz and Thompson: each row's 1 / propensity adds up to the number of trials.
    assert np.allclose(told / trials, 1.0, atol=0.3)
    assert told.mean() / trials == pytest.approx(1.0, abs=0.03)
    foreground = found.foreground >= POLICY.least_foreground
    ratio = drawn[foreground].mean() / drawn[~foreground].mean()
    assert ratio > 1.5 if name == "foreground-random" else 0.85 < ratio < 1.15


def test_half_of_the_draws_are_aware_of_the_foreground() -> None:
    found = candidates(200, foreground=np.arange(200) < 20)
    shown = [
        (found.foreground[rows_of(found, STRATEGIES["foreground-random"].pick(found, batch(10, seed=seed)))] > 0).sum()
        for seed in range(200)
    ]
    assert np.mean(shown) == pytest.approx(5 + 5 * 0.1, abs=0.1)


def test_without_foreground_anywhere_every_row_has_the_same_chance() -> None:
    for foreground in (np.zeros(30), np.ones(30), np.full(30, np.nan)):
        found = candidates(30, foreground=foreground)
        picks = STRATEGIES["foreground-random"].pick(found, batch(6))
        assert np.allclose(picks.propensity, 0.2)


# The mixture


@pytest.mark.method_line(42)
@pytest.mark.parametrize("size", [10, 40, 50])
def test_the_exploration_share_of_a_batch_is_exact(size: int) -> None:
    picks = STRATEGIES["mpamatch"].pick(candidates(400), batch(size))
    assert picks.strata.count("exploration") == size // 10
    assert [n + 1 for n, s in enumerate(picks.strata) if s == "exploration"] == list(range(10, size + 1, 10))


@pytest.mark.method_line(43)
def test_classes_get_equal_parts_of_two_thirds_of_the_rest() -> None:
    picks = STRATEGIES["mpamatch"].pick(candidates(400, images=np.arange(400)), batch(50))
    assert picks.strata.count("class") == round(0.66 * 45) == 30
    assert np.bincount(picks.classes[picks.classes >= 0], minlength=4).tolist() == [0, 10, 10, 10]


@pytest.mark.method_line(43)
def test_a_class_is_served_by_its_own_score_and_the_background_is_none() -> None:
    found = candidates(400)
    late = replace(POLICY, exploration_share=0.0, class_share=1.0, window=1, image_cap=400, group_share=1.0)
    picks = STRATEGIES["mpamatch"].pick(found, batch(30, late, round_number=9))
    for class_id in (1, 2, 3):
        best = set(np.argsort(-found.class_worth[:, class_id])[:25].tolist())
        assert set(np.searchsorted(found.ids, picks.ids[picks.classes == class_id]).tolist()) <= best
    assert 0 not in picks.classes


def test_without_class_scores_the_predicted_class_serves() -> None:
    found = candidates(400, class_worth=None, images=np.arange(400))
    picks = STRATEGIES["mpamatch"].pick(found, batch(50))
    rows = np.array(rows_of(found, picks))
    of_class = picks.classes >= 0
    assert np.array_equal(found.factors.predicted_class[rows[of_class]], picks.classes[of_class])
    assert of_class.sum() == 30


def test_a_class_that_is_never_a_tile_s_best_region_is_served_too() -> None:
    predicted = np.zeros((400, 4), bool)
    predicted[:, 1] = True
    predicted[:10, 2] = True
    found = candidates(400, classes=0, class_worth=np.ones((400, 4)), predicted=predicted, images=np.arange(400))
    picks = STRATEGIES["mpamatch"].pick(found, batch(50))
    assert np.bincount(picks.classes[picks.classes >= 0], minlength=4).tolist() == [0, 15, 15, 0]


def test_the_rarest_class_is_that_of_the_fewest_rows_that_are_left() -> None:
    predicted = np.zeros((100, 3), bool)
    predicted[:60, 1] = True
    predicted[60:, 2] = True
    closed = np.arange(100) < 40
    policy = replace(LOOSE, exploration_share=0.0, class_share=1.0)
    found = candidates(100, class_worth=None, predicted=predicted)
    picks = STRATEGIES["mpamatch"].pick(found, batch(3, policy, closed=closed))
    assert sorted(picks.classes.tolist()) == [1, 1, 2]


@pytest.mark.method_line(42)
def test_caps_hold_for_the_whole_batch_with_what_chance_drew() -> None:
    found = candidates(400, images=np.arange(400) % 40, groups=np.arange(400) % 10)
    picks = STRATEGIES["mpamatch"].pick(found, batch(40))
    rows = rows_of(found, picks)
    assert np.bincount(found.images[rows]).max() <= 3
    assert np.bincount(found.groups[rows]).max() <= 8


def test_what_nothing_speaks_for_comes_in_last() -> None:
    silent = np.arange(60) < 50
    picks = STRATEGIES["mpamatch"].pick(candidates(60, silent=silent), batch(20, replace(POLICY, exploration_share=0)))
    assert set(range(50, 60)) <= set(rows_of(candidates(60), picks))
