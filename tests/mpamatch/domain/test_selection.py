from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpamatch.domain.candidates import Taken
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.selection import (
    Chooser,
    best_rows,
    gumbel_noise,
    noise_beta,
    noisy_key,
    quotas,
    shares_of_batch,
)
from mpamatch.errors import BadInput
from tests.mpamatch.domain.candidates import LOOSE, POLICY, batch, candidates


def _keys(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).random(count)


@pytest.mark.method_line(42)
def test_the_first_picks_are_those_of_brute_force() -> None:
    found, key = candidates(40), _keys(40)
    unknown = replace(found, factors=replace(found.factors, distance=np.full(40, np.nan)))
    chosen = Chooser(unknown, batch(6, replace(LOOSE, window=40))).spread(key, 6)
    assert chosen[0] == int(key.argmax())
    for count in range(1, 6):
        distances = [
            -1.0 if i in chosen[:count] else min(1 - float(found.vectors[i] @ found.vectors[c]) for c in chosen[:count])
            for i in range(40)
        ]
        assert chosen[count] == int(np.argmax(distances))


@pytest.mark.method_line(42)
def test_the_first_one_is_the_farthest_from_what_is_labelled_or_queued() -> None:
    found, key = candidates(40), _keys(40)
    wide = replace(LOOSE, window=40)
    assert Chooser(found, batch(1, wide)).spread(key, 1) == [int(found.factors.distance.argmax())]
    unknown = replace(found, factors=replace(found.factors, distance=np.full(40, np.nan)))
    seeds = found.vectors[:5]
    first = Chooser(unknown, batch(1, wide, seeds=seeds)).spread(key, 1)
    assert first == [int((found.vectors @ seeds.T).max(axis=1).argmin())]


@pytest.mark.method_line(42)
def test_only_the_best_few_times_as_many_are_looked_at() -> None:
    found, key = candidates(60), _keys(60)
    chosen = Chooser(found, batch(4, replace(LOOSE, window=3))).spread(key, 4)
    assert set(chosen) <= set(np.argsort(-key)[:12].tolist())


@pytest.mark.method_line(42)
def test_caps_hold_and_near_copies_are_passed_over() -> None:
    found = candidates(60)
    twins = replace(found, vectors=np.concatenate([found.vectors[:30], found.vectors[:30]]))
    policy = replace(POLICY, image_cap=2, group_share=0.3, window=60)
    chosen = Chooser(twins, batch(20, policy)).spread(_keys(60), 20)
    assert np.bincount(found.images[chosen]).max() <= 2
    assert np.bincount(found.groups[chosen]).max() <= 6
    cosine = twins.vectors[chosen] @ twins.vectors[chosen].T - 2 * np.eye(len(chosen))
    assert cosine.max() <= 0.95
    labelled = replace(twins, factors=replace(twins.factors, distance=np.zeros(60)))
    assert Chooser(labelled, batch(5, policy)).spread(_keys(60), 5) == []


def test_an_unfilled_head_takes_near_copies_within_caps_and_then_breaks_them() -> None:
    found = candidates(60, vectors=np.ones((60, 3)))
    chooser = Chooser(found, batch(20, replace(POLICY, image_cap=1, group_share=1.0)))
    assert len(chooser.spread(_keys(60), 20)) == 1
    filled = chooser.fill(_keys(60), 19)
    assert len(set(found.images[filled[:9]].tolist())) == 9  # one image each, while there are other images
    assert len(filled) == 19


def test_without_embeddings_other_groups_and_images_come_first() -> None:
    found, key = candidates(60, embedded=False), _keys(60)
    chosen = Chooser(found, batch(8, replace(LOOSE, window=60))).spread(key, 8)
    assert sorted(found.groups[chosen[:4]].tolist()) == [0, 1, 2, 3]
    assert len(set(found.images[chosen].tolist())) == 8


def test_what_looks_the_same_is_taken_once() -> None:
    looks = np.array([0b1111, 0b0111, 0b1_1111_0000_0000_1111, 0, 0], np.uint64)
    found = candidates(5, embedded=False, looks=looks, images=np.arange(5), groups=np.arange(5))
    chosen = Chooser(found, batch(5, LOOSE)).spread(np.arange(5.0), 5)
    assert sorted(chosen) == [1, 2, 3, 4]  # a picture without a hash is like none; one bit apart is the same, 5 are not
    seen = batch(5, LOOSE, seen_looks=np.array([0b1111, 0], np.uint64))
    assert sorted(Chooser(found, seen).spread(np.arange(5.0), 5)) == [2, 3, 4]


boxes = st.lists(st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 12)] * 2), min_size=1, max_size=25)


@settings(max_examples=50)
@given(boxes, boxes, st.integers(1, 12), st.integers(0, 5))
def test_no_two_picks_share_a_pixel_and_none_with_what_is_taken(rows, taken, size, seed) -> None:
    count = len(rows)
    found = candidates(count, seed, boxes=np.array(rows), images=np.arange(count) % 2)
    held = Taken(np.arange(len(taken)) % 2, np.array(taken))
    chooser = Chooser(found, batch(size, replace(POLICY, image_cap=1), taken=held))
    key = _keys(count, seed)
    chosen = chooser.spread(key, size) + chooser.fill(key, size)
    painted = np.zeros((2, 50, 50), int)
    for image, (x, y, w, h) in zip(held.images, taken, strict=True):
        painted[image, y : y + h, x : x + w] = 1
    for row in chosen:
        x, y, w, h = found.boxes[row]
        there = painted[found.images[row], y : y + h, x : x + w]
        assert not there.any()
        there[:] = 1
    for row in set(range(count)) - set(chosen) if len(chosen) < size else ():
        x, y, w, h = found.boxes[row]
        assert painted[found.images[row], y : y + h, x : x + w].any()  # what is left could not be taken


def test_taken_boxes_without_boxes_of_the_candidates_are_refused() -> None:
    with pytest.raises(BadInput, match="boxes"):
        Chooser(candidates(5), batch(1, taken=Taken(np.zeros(1, np.int64), np.array([[0, 0, 1, 1]]))))


@pytest.mark.method_line(42)
@pytest.mark.parametrize("size", [1, 7, 10, 50, 99])
def test_the_share_of_chance_is_exact(size: int) -> None:
    by_chance, by_class, by_score = shares_of_batch(size, exploration=0.1, by_class=0.66)
    assert by_chance == size // 10
    assert by_chance + by_class + by_score == size
    assert by_class == round(0.66 * (size - by_chance))


@pytest.mark.method_line(43)
def test_classes_share_evenly_and_noise_goes_from_one_to_a_hundred() -> None:
    assert sum(quotas(31, [1, 2, 4]).values()) == 31
    assert set(quotas(31, [1, 2, 4]).values()) == {10, 11}
    policy = RankingPolicy(planned_rounds=6)
    betas = [noise_beta(r, policy) for r in range(6)]
    assert betas[0] == 1
    assert betas[-1] == pytest.approx(100)
    assert np.allclose(np.diff(np.log(betas)), np.log(100) / 5)
    assert noise_beta(9, policy) == pytest.approx(100)
    assert noise_beta(0, RankingPolicy(planned_rounds=1)) == 1


@pytest.mark.method_line(43)
def test_noise_draws_in_proportion_early_and_takes_the_best_late() -> None:
    scores = np.array([0.1, 0.3, 0.6])
    ids = np.arange(3)

    def first(round_number: int, seed: int) -> int:
        return int(noisy_key(scores, gumbel_noise(ids, POLICY, seed, round_number)).argmax())

    early = np.bincount([first(0, seed) for seed in range(4000)], minlength=3) / 4000
    assert np.allclose(early, scores, atol=0.03)
    assert {first(9, seed) for seed in range(200)} == {2}


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=30), st.integers(0, 30))
def test_the_best_rows_are_those_of_a_full_sort(pairs, count) -> None:
    key, rest = (np.array(column, float) for column in zip(*pairs, strict=True))
    expected = sorted(range(len(pairs)), key=lambda row: (-key[row], -rest[row], row))[:count]
    assert best_rows(np.arange(len(pairs)), key, rest, count).tolist() == expected
