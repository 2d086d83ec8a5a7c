from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mpamatch.domain.classes import ABSTAIN, IGNORE
from mpamatch.domain.object_sizes import median_diameter_px, object_diameters_px, skips_for

CLASSES = 3
MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 0, 1, 2, ABSTAIN, IGNORE]))
)


def sizes(mask: np.ndarray) -> list[float]:
    return sorted(object_diameters_px(mask, CLASSES).tolist())


def slow_sizes(mask: np.ndarray) -> list[float]:
    """Pixels that touch, also by a corner, and have one class are joined one by one."""
    groups: list[set[tuple[int, int]]] = []
    for y, x in np.argwhere((mask > 0) & (mask < CLASSES)).tolist():
        around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
        touched = [g for g in groups if any(place in around and mask[place] == mask[y, x] for place in g)]
        groups = [g for g in groups if g not in touched] + [set().union({(y, x)}, *touched)]
    return sorted(math.sqrt(4 * len(group) / math.pi) for group in groups)


@given(MASKS)
def test_objects_are_what_touches_within_a_class_and_count_by_their_area(mask: np.ndarray) -> None:
    assert sizes(mask) == pytest.approx(slow_sizes(mask))


@given(MASKS, st.integers(0, 3), st.booleans(), st.integers(1, 4))
def test_turning_changes_nothing_and_enlarging_enlarges_each_object(
    mask: np.ndarray, turns: int, flipped: bool, factor: int
) -> None:
    turned = np.rot90(mask.T if flipped else mask, turns)
    assert sizes(turned) == pytest.approx(sizes(mask))
    enlarged = np.kron(mask, np.ones((factor, factor), np.uint8))
    assert sizes(enlarged) == pytest.approx([factor * size for size in sizes(mask)])


@given(MASKS)
def test_names_of_classes_and_what_is_no_label_do_not_matter(mask: np.ndarray) -> None:
    swapped = np.where(mask == 1, 2, np.where(mask == 2, 1, mask))
    background = np.where(mask >= ABSTAIN, 0, mask)
    assert sizes(swapped) == pytest.approx(sizes(mask))
    assert sizes(background) == pytest.approx(sizes(mask))


@given(st.lists(MASKS, max_size=4), st.randoms(use_true_random=False))
def test_the_median_is_over_the_objects_of_all_masks_in_any_order(masks: list[np.ndarray], chance: object) -> None:
    every = [size for mask in masks for size in slow_sizes(mask)]
    mixed = sorted(masks, key=lambda _: chance.random())  # type: ignore[attr-defined]
    found = median_diameter_px(mixed, CLASSES)
    assert found == (pytest.approx(float(np.median(every))) if every else None)


def test_a_disc_is_as_large_as_it_is_across() -> None:
    y, x = np.mgrid[:101, :101]
    for radius in (8, 16, 40):
        [size] = sizes((np.hypot(y - 50, x - 50) <= radius).astype(np.uint8))
        assert size == pytest.approx(2 * radius, rel=0.04)


@given(st.floats(0, 1000), st.floats(0, 1000))
def test_a_stem_is_for_objects_below_the_bound_and_for_none_without_any(median_px: float, below_px: float) -> None:
    assert (skips_for(median_px, below_px) == "stem") == (median_px < below_px)
    assert skips_for(None, below_px) == "none"
