import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpamatch.domain.tallies import (
    LEVELS,
    MASKED,
    PREDICTED,
    RIGHT,
    TileTally,
    confidence_sums,
    first_level,
    in_order,
    level_sums,
    pack,
    tally,
    unpack,
)
from mpamatch.errors import BadInput


def rasters(seed: int, classes: int = 3, side: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    guess = rng.integers(0, classes, (side, side)).astype(np.uint8)
    level = rng.integers(0, LEVELS, (side, side)).astype(np.uint8)
    mask = rng.choice([*range(classes), 254, 255], (side, side)).astype(np.uint8)
    return guess, level, mask


@given(st.integers(0, 40), st.integers(2, 5))
def test_a_tally_is_what_a_loop_over_the_pixels_counts(seed: int, classes: int) -> None:
    guess, level, mask = rasters(seed, classes)
    expected = np.zeros((3, LEVELS, classes), int)
    for g, q, m in zip(guess.flat, level.flat, mask.flat, strict=True):
        if m < classes:
            expected[PREDICTED, q, g] += 1
            expected[MASKED, q, m] += 1
            expected[RIGHT, q, g] += g == m
    found = tally(guess, level, mask, classes)
    assert (found == expected).all()
    assert (unpack(pack(found), classes) == found).all()
    assert confidence_sums(found).sum() == pytest.approx((level[mask < classes] / 255).sum())


@given(st.floats(0, 1), st.integers(0, 255))
def test_a_level_passes_when_it_is_at_least_the_threshold(threshold: float, level: int) -> None:
    if abs(level / 255 - threshold) > 1e-9:
        assert (level >= first_level(threshold)) == (level / 255 >= threshold)


def test_runs_of_levels_add_up_to_all() -> None:
    counts = tally(*rasters(3), 3)
    runs = level_sums(counts, [0, 100, 243])
    assert runs.shape == (3, 3, 3)
    assert (runs[:, 1] == counts[:, 100:243].sum(axis=1)).all()
    assert (runs.sum(axis=1) == counts.sum(axis=1)).all()


def test_other_shapes_unknown_classes_and_damaged_bytes_are_refused() -> None:
    guess, level, mask = rasters(1)
    with pytest.raises(BadInput, match="differ"):
        tally(guess, level[:4], mask, 3)
    with pytest.raises(BadInput, match="not below 2"):
        tally(guess, level, mask, 2)
    with pytest.raises(BadInput, match="damaged"):
        unpack(b"x", 3)
    with pytest.raises(BadInput, match="damaged"):
        unpack(pack(tally(guess, level, mask, 3)[:, :7]), 3)
    with pytest.raises(BadInput, match="of 3 classes"):
        unpack(pack(tally(guess, level, mask, 3)), 2)


def test_a_class_that_came_later_holds_nothing() -> None:
    counts = tally(*rasters(2), 3)
    found = unpack(pack(counts), 5)
    assert (found[..., :3] == counts).all()
    assert not found[..., 3:].any()


def test_tiles_stand_by_group_and_none_comes_twice() -> None:
    counts = tally(*rasters(1), 3)
    tiles = [TileTally(1, "b", counts), TileTally(3, "a", counts), TileTally(2, "a", counts)]
    assert [one.tile_id for one in in_order(tiles)] == [2, 3, 1]
    with pytest.raises(BadInput, match="twice"):
        in_order([*tiles, tiles[0]])
    with pytest.raises(BadInput, match="classes"):
        in_order([*tiles, TileTally(9, "a", counts[..., :2])])
