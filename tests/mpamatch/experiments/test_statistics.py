import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mpamatch.domain import metrics
from mpamatch.errors import BadInput
from mpamatch.experiments.statistics import (
    ScoredCurve,
    ScoredSet,
    mean_over_curve,
    paired_bootstrap,
    paired_difference,
    summary,
    value_on_curve,
)

DICE = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8)


def scored(seed: int, images: int = 6, better: int = 0) -> ScoredSet:
    """Random confusions; ``better`` moves that many pixels of each image from wrong to right."""
    rng = np.random.default_rng(seed)
    matrices = rng.integers(50, 100, (images, 2, 2))
    matrices[:, 0, 1] -= better
    matrices[:, 0, 0] += better
    return ScoredSet(tuple(f"image {n}" for n in range(images)), matrices)


def test_mean_and_spread_are_those_of_numpy_over_what_is_known() -> None:
    found = summary([0.5, math.nan, 0.7, 0.9])
    assert found.n == 3
    assert found.mean == pytest.approx(np.mean([0.5, 0.7, 0.9]))
    assert found.sd == pytest.approx(np.std([0.5, 0.7, 0.9], ddof=1))
    assert math.isnan(summary([0.5]).sd)
    assert math.isnan(summary([]).mean)


@given(DICE)
def test_the_interval_is_scipys_of_a_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    arm, baseline = (list(side) for side in zip(*pairs, strict=True))
    differences = np.subtract(arm, baseline)
    found = paired_difference(arm, baseline)
    if np.ptp(differences) < 1e-9:  # scipy gives up on values without spread
        assert found.high - found.low == pytest.approx(0, abs=1e-7)
        return
    wanted = stats.ttest_rel(arm, baseline).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert found.mean == pytest.approx(differences.mean())
    assert found.up + found.down + found.equal == found.n == len(pairs)


def test_one_pair_has_a_sign_and_no_interval() -> None:
    found = paired_difference([0.8], [0.7])
    assert (found.n, found.up, found.down, found.equal) == (1, 1, 0, 0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_pair_with_a_gap_is_left_out() -> None:
    found = paired_difference([0.8, math.nan, 0.6], [0.7, 0.5, 0.7])
    assert (found.n, found.up, found.down) == (2, 1, 1)
    with pytest.raises(BadInput):
        paired_difference([0.8], [0.7, 0.6])


def test_folds_of_a_seed_are_averaged_and_count_once() -> None:
    # By hand: seed 0 has 0.03, 0.05, 0.01 -> 0.03; seed 1 has 0.00, 0.02 -> 0.01. Mean 0.02, sd 0.01 * sqrt(2), and
    # t(1 degree, 97.5 %) is 12.7062: half of the interval is 12.7062 * 0.01 * sqrt(2) / sqrt(2).
    arm, baseline, seeds = [0.83, 0.75, 0.61, 0.5, 0.62], [0.8, 0.7, 0.6, 0.5, 0.6], [0, 0, 0, 1, 1]
    found = paired_difference(arm, baseline, groups=seeds)
    assert (found.n, found.up, found.down, found.equal) == (2, 2, 0, 0)
    assert found.mean == pytest.approx(0.02)
    assert found.sd == pytest.approx(0.01 * math.sqrt(2))
    assert found.low == pytest.approx(0.02 - 0.127062, abs=1e-6)
    assert found.high == pytest.approx(0.02 + 0.127062, abs=1e-6)


def test_one_seed_has_no_interval_however_many_folds_it_has() -> None:
    found = paired_difference([0.83, 0.75, math.nan], [0.8, 0.7, 0.6], groups=[4, 4, 4])
    assert (found.n, found.up) == (1, 1)
    assert found.mean == pytest.approx(0.04)
    assert math.isnan(found.low)
    with pytest.raises(BadInput):
        paired_difference([0.8, 0.7], [0.7, 0.6], groups=[0])


def test_the_bootstrap_draws_whole_seeds_and_averages_their_folds() -> None:
    """Seeds differ and folds of one do not: more folds of the same must not narrow what two seeds leave open."""
    base = [scored(n) for n in range(2)]
    arm = [scored(0, better=20), scored(1, better=-20)]
    wanted = paired_bootstrap(arm, base, seed=1)
    thrice = paired_bootstrap(arm * 3, base * 3, seed=1, groups=[0, 1] * 3)
    assert thrice == pytest.approx(wanted)
    as_if_independent = paired_bootstrap(arm * 3, base * 3, seed=1)
    assert as_if_independent[1] - as_if_independent[0] < 0.8 * (wanted[1] - wanted[0])
    # One seed: what is left to draw is images, fold by fold.
    low, high = paired_bootstrap(arm, base, seed=1, groups=[7, 7])
    assert high - low < 0.5 * (wanted[1] - wanted[0])


def test_the_bootstrap_over_images_is_scipys_of_the_same_figure() -> None:
    arm, baseline = scored(1, images=12, better=5), scored(1, images=12)

    def difference(index: np.ndarray) -> float:
        pooled = [side.confusions[index.astype(int)].sum(axis=0) for side in (arm, baseline)]
        return metrics.mean_dice(pooled[0]) - metrics.mean_dice(pooled[1])

    other = stats.bootstrap(
        (np.arange(12),), difference, n_resamples=4000, method="percentile", vectorized=False, rng=3
    ).confidence_interval
    low, high = paired_bootstrap([arm], [baseline], seed=0, draws=4000)
    width = other.high - other.low
    assert low == pytest.approx(other.low, abs=0.1 * width)
    assert high == pytest.approx(other.high, abs=0.1 * width)


def test_the_bootstrap_is_the_same_each_time_and_narrower_where_seeds_agree() -> None:
    baseline = [scored(n) for n in range(4)]
    agreeing = [scored(n, better=10) for n in range(4)]
    split = [scored(n, better=10 if n % 2 else -10) for n in range(4)]
    first = paired_bootstrap(agreeing, baseline, seed=1)
    assert first == paired_bootstrap(agreeing, baseline, seed=1)
    assert first[0] > 0
    wide = paired_bootstrap(split, baseline, seed=1)
    assert wide[0] < 0 < wide[1]
    assert wide[1] - wide[0] > 2 * (first[1] - first[0])


def test_more_seeds_of_the_same_folds_do_not_make_more_images() -> None:
    """Each fold's images are the same for every seed: what they leave open is not halved by another seed."""
    folds, base = [scored(10, images=8), scored(11, images=6)], [scored(0, images=8), scored(1, images=6)]
    low, high = paired_bootstrap(folds * 8, base * 8, seed=1)
    alone = [paired_bootstrap([a], [b], seed=1) for a, b in zip(folds, base, strict=True)]
    assert high - low > 0.9 * np.hypot(*(b - a for a, b in alone)) / 2


def test_equal_arms_have_an_interval_of_nothing() -> None:
    # Other images in each unit: these are drawn unit by unit.
    sets = [scored(0, images=3), scored(1, images=5)]
    assert paired_bootstrap(sets, sets, seed=0) == (0.0, 0.0)


def test_arms_that_scored_other_images_are_refused() -> None:
    with pytest.raises(BadInput, match="other images"):
        paired_bootstrap([scored(0, images=3)], [scored(0, images=4)], seed=0)


def test_the_mean_over_a_curve_is_its_area_over_its_length() -> None:
    at, values = np.array([0.0, 10.0, 40.0, 60.0]), np.array([0.2, 0.6, 0.5, 0.9])
    for end in (60.0, 45.0, 40.0, 7.0):
        dense = np.linspace(0, end, 200_001)
        wanted = np.interp(dense, at, values).mean()
        assert mean_over_curve(at, values, end) == pytest.approx(float(wanted), abs=1e-5)
    assert mean_over_curve(at, values, 80.0) == pytest.approx((mean_over_curve(at, values, 60.0) * 60 + 0.9 * 20) / 80)
    assert mean_over_curve(at, values, 0.0) == 0.2
    rows = mean_over_curve(at, np.stack([values, values + 0.1]), 45.0)
    assert rows[1] - rows[0] == pytest.approx(0.1)


def test_of_two_points_at_one_place_the_last_counts() -> None:
    at = np.array([0.0, 5.0, 5.0, 10.0])
    assert mean_over_curve(at, np.array([0.0, 9.0, 1.0, 1.0]), 10.0) == pytest.approx(0.75)
    assert value_on_curve(at, np.array([0.0, 9.0, 1.0, 1.0]), 2.5) == pytest.approx(0.5)
    assert value_on_curve(at, np.array([0.0, 9.0, 1.0, 1.0]), -1.0) == 0.0


def test_curves_are_resampled_by_images_and_weighed_by_the_way_between_their_points() -> None:
    def curve(hits: list[int], at: list[float]) -> ScoredCurve:
        """Every image alike, with so many of 100 pixels right at each point."""
        points = np.array([[[[50, 0], [100 - n, n - 50]]] * 3 for n in hits])
        return ScoredCurve(("a", "b", "c"), points, np.array(at), 10.0)

    low, high = paired_bootstrap(
        [curve([60, 80], [0.0, 10.0])] * 2, [curve([60, 70], [0.0, 10.0])] * 2, seed=0, draws=50
    )
    assert low == high, "images and seeds are alike"
    dice = {n: (100 / (150 - (n - 50)) + 2 * (n - 50) / (100 - n + 2 * (n - 50))) / 2 for n in (60, 70, 80)}
    assert low == pytest.approx((dice[80] - dice[70]) / 2)
