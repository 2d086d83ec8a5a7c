from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial.distance import cdist, directed_hausdorff

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.objects import border, class_objects, components, hausdorff, object_dice


def blobs(seed: int, side_px: int = 48, share: float = 0.35) -> np.ndarray:
    """Connected shapes of every size: smooth noise above a threshold."""
    noise = np.random.default_rng(seed).random((side_px, side_px))
    for axis in (0, 1):
        noise = sum(np.roll(noise, shift, axis) for shift in range(-2, 3))
    return noise > np.quantile(noise, 1 - share)


def slow_components(mask: np.ndarray) -> np.ndarray:
    """Flood fill over eight neighbours."""
    numbered = np.zeros(mask.shape, int)
    count = 0
    for start in zip(*np.nonzero(mask), strict=True):
        if numbered[start]:
            continue
        count += 1
        waiting = [start]
        while waiting:
            y, x = waiting.pop()
            if not (0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]) or not mask[y, x] or numbered[y, x]:
                continue
            numbered[y, x] = count
            waiting += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return numbered


def slow_object_dice(prediction: np.ndarray, truth: np.ndarray) -> float:
    """The challenge's two sums, object by object, with sets of pixels."""

    def objects(numbered: np.ndarray) -> list[set[int]]:
        return [set(np.flatnonzero(numbered == n).tolist()) for n in np.unique(numbered) if n]

    def one_way(mine: list[set[int]], other: list[set[int]]) -> float:
        total = 0.0
        for one in mine:
            best = max(other, key=lambda o: len(one & o))
            dice = 2 * len(one & best) / (len(one) + len(best)) if one & best else 0.0
            total += len(one) / sum(map(len, mine)) * dice
        return total

    a, b = objects(prediction), objects(truth)
    return (one_way(a, b) + one_way(b, a)) / 2


@pytest.mark.parametrize("seed", range(5))
def test_components_are_those_of_a_flood_fill(seed: int) -> None:
    ours, slow = components(blobs(seed)), slow_components(blobs(seed))
    assert ours.max() == slow.max() > 2
    assert len(set(zip(ours.ravel().tolist(), slow.ravel().tolist(), strict=True))) == ours.max() + 1


@pytest.mark.parametrize("seed", range(8))
def test_object_dice_is_that_of_the_challenge(seed: int) -> None:
    prediction, truth = components(blobs(seed)), components(blobs(seed) ^ blobs(seed + 100, share=0.1))
    assert object_dice(prediction, truth) == pytest.approx(slow_object_dice(prediction, truth))
    assert object_dice(prediction, truth) == pytest.approx(object_dice(truth, prediction))
    assert 0 < object_dice(prediction, truth) < 1


def test_object_dice_by_hand() -> None:
    """One true object of 4 px, cut in two of 2 px: each half has 2*2/6, the whole has its better half."""
    truth = np.array([[1, 1, 1, 1]])
    cut = np.array([[1, 1, 2, 2]])
    assert object_dice(cut, truth) == pytest.approx(2 / 3)
    # A false object of 4 px beside a perfect one of 4: forwards (4 * 1 + 4 * 0) / 8, backwards 1.
    assert object_dice(np.array([[1] * 4 + [0] + [2] * 4]), np.array([[1] * 4 + [0] * 5])) == pytest.approx(0.75)
    # Numbers need not follow each other.
    assert object_dice(cut * 7, truth * 3) == object_dice(cut * 10_000, truth * 65_535) == object_dice(cut, truth)


def test_no_object_on_either_side_is_one_and_on_one_side_nought() -> None:
    empty, full = np.zeros((4, 4), int), np.ones((4, 4), int)
    assert object_dice(empty, empty) == 1.0
    assert object_dice(full, empty) == object_dice(empty, full) == 0.0
    assert object_dice(full, full) == 1.0


@pytest.mark.parametrize("seed", range(6))
def test_the_full_hausdorff_distance_is_scipys(seed: int) -> None:
    a, b = blobs(seed), blobs(seed + 50)
    points = border(a), border(b)
    scipys = max(directed_hausdorff(*points)[0], directed_hausdorff(*points[::-1])[0])
    assert hausdorff(a, b, 100) == pytest.approx(scipys)


@pytest.mark.parametrize("seed", range(6))
def test_hausdorff_95_is_the_larger_percentile_of_all_distances(seed: int) -> None:
    a, b = blobs(seed), blobs(seed + 50, share=0.2)

    def slow_border(mask: np.ndarray) -> list[tuple[int, int]]:
        outside = np.pad(~mask, 1, constant_values=True)
        near = ((1, 0), (-1, 0), (0, 1), (0, -1))
        found = zip(*np.nonzero(mask), strict=True)
        return [(y, x) for y, x in found if any(outside[y + 1 + dy, x + 1 + dx] for dy, dx in near)]

    table = cdist(slow_border(a), slow_border(b))
    expected = max(np.percentile(table.min(axis=1), 95), np.percentile(table.min(axis=0), 95))
    assert hausdorff(a, b) == pytest.approx(expected)
    assert hausdorff(a, b) <= hausdorff(a, b, 100)


def test_a_far_speck_moves_the_hausdorff_distance_and_hardly_its_95th_percentile() -> None:
    truth = np.zeros((100, 100), bool)
    truth[40:80, 40:80] = True
    speck = truth.copy()
    speck[0, 0] = True
    assert hausdorff(speck, truth, 100) == pytest.approx(math.hypot(40, 40))
    assert hausdorff(speck, truth) == 0.0


def test_a_missing_class_is_the_diagonal_and_two_missing_are_no_figure() -> None:
    empty, full = np.zeros((30, 40), bool), np.ones((30, 40), bool)
    assert hausdorff(full, empty) == hausdorff(empty, full) == 50.0
    assert math.isnan(hausdorff(empty, empty))


def test_classes_are_scored_apart_and_pixels_without_label_belong_to_nobody() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[2:8, 2:8] = 1
    mask[12:18, 12:18] = 2
    guess = mask.copy()
    guess[2:8, 5:8] = 0
    found = class_objects(guess, mask, 4)
    assert found[:, 1].tolist() == [1.0, 0.0]
    assert found[0, 0] == pytest.approx(2 * 18 / (18 + 36))
    assert found[1, 0] == 3.0
    assert np.isnan(found[:, 2]).all()
    guess[:, 10:] = 3
    mask[:, 10:] = IGNORE
    assert np.isnan(class_objects(guess, mask, 4)[:, 2]).all()
