from __future__ import annotations

import numpy as np
import pytest

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.sparse import sparse_boxes
from mpamatch.errors import BadInput


def disc(side_px: int = 128) -> np.ndarray:
    y, x = np.mgrid[:side_px, :side_px]
    return (np.hypot(y - side_px / 2, x - side_px / 2) < side_px / 4).astype(np.uint8)


def boxes_of(kept: np.ndarray, side_px: int) -> list[tuple[int, int]]:
    """Top left corners of the squares whose pixels are all kept, where every kept pixel lies in one of two."""
    seen = kept != IGNORE
    return [
        (y, x)
        for y in range(kept.shape[0] - side_px + 1)
        for x in range(kept.shape[1] - side_px + 1)
        if seen[y : y + side_px, x : x + side_px].all()
    ]


def test_two_squares_keep_their_labels_and_the_rest_has_none() -> None:
    for seed in range(20):
        kept = sparse_boxes(disc(), "a", seed)
        assert (kept != IGNORE).sum() == 2 * 32 * 32
        assert (kept[kept != IGNORE] == disc()[kept != IGNORE]).all()
        corners = boxes_of(kept, 32)
        assert len(corners) >= 2  # side by side, two squares hold more of their size between them
        for y, x in (corners[0], corners[-1]):
            assert 0.2 <= disc()[y : y + 32, x : x + 32].mean() <= 0.8


def test_seed_and_name_decide_and_nothing_else() -> None:
    first = sparse_boxes(disc(), "a", 0)
    assert (sparse_boxes(disc(), "a", 0) == first).all()
    assert (sparse_boxes(disc(), "b", 0) != first).any()
    assert (sparse_boxes(disc(), "a", 1) != first).any()


def test_every_place_that_fits_is_drawn_and_no_other() -> None:
    mask = np.zeros((8, 8), np.uint8)
    mask[:4, :4] = 1
    fits = {(y, x) for y in range(5) for x in range(5) if 0.2 <= mask[y : y + 4, x : x + 4].mean() <= 0.8}
    drawn = set()
    for seed in range(400):
        drawn |= set(boxes_of(sparse_boxes(mask, "m", seed, side_px=4, boxes=1), 4))
    assert drawn == fits


def test_without_a_mixed_place_the_nearest_is_taken() -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[0, 0] = 1  # 1 of 16 pixels of one box, 0 of all others
    assert boxes_of(sparse_boxes(mask, "m", 0, side_px=4, boxes=1), 4) == [(0, 0)]
    assert (sparse_boxes(np.zeros((16, 16), np.uint8), "m", 0, side_px=4) != IGNORE).sum() == 32


def test_small_masks_and_unlabelled_pixels() -> None:
    assert (sparse_boxes(disc(10), "m", 0) == disc(10)).all()
    mask = disc()
    mask[:64] = IGNORE
    kept = sparse_boxes(mask, "m", 0)
    assert (kept[:64] == IGNORE).all()
    with pytest.raises(BadInput):
        sparse_boxes(disc(), "m", 0, boxes=0)
