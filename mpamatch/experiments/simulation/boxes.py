"""Boxes by chance, evenly over tissue, and what share of a box something covers. Pure.

All boxes of a simulation have one size, that of the regions' boxes, so that no strategy gains by the size of what it
asks.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from mpamatch.domain.grids import held
from mpamatch.domain.spatial import MIN_TISSUE_SHARE
from mpamatch.domain.tiling import Box, patch_starts

Boxes = npt.NDArray[np.int64]
"""(N, 4): x, y, width, height in an image's pixels."""
BoolArray = npt.NDArray[np.bool_]

_TIMES_OVER: Final = 8
"""How often the boxes by chance cover an image on average: enough that any of them is nearly a free choice of place."""


def boxes_by_chance(tissue: BoolArray, size_px: tuple[int, int], side_px: int, rng: np.random.Generator) -> Boxes:
    """Squares of ``side_px``, cut to the image of ``size_px`` (width, height), in places drawn evenly over it.

    Those with less than a tenth of ``tissue``, bool (h, w) in cells, are left out; so an image with twice the tissue
    has twice the boxes.
    """
    width, height = (min(side_px, length) for length in size_px)
    count = max(1, round(_TIMES_OVER * size_px[0] * size_px[1] / (width * height)))
    x, y = (rng.integers(0, length - side + 1, count) for length, side in zip(size_px, (width, height), strict=True))
    boxes = np.stack([x, y, np.full(count, width), np.full(count, height)], axis=1).astype(np.int64)
    return boxes[shares_in(held(tissue, size_px[::-1]), boxes) >= MIN_TISSUE_SHARE]


def shares_in(raster: BoolArray, boxes: Boxes) -> npt.NDArray[np.float64]:
    """What share of each box a raster (H, W) covers, (N,).

    >>> shares_in(np.eye(4, dtype=bool), np.array([[0, 0, 2, 2], [2, 0, 2, 2]])).tolist()
    [0.5, 0.0]
    """
    sums = np.pad(raster.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    x, y, width, height = boxes.T
    inside = sums[y + height, x + width] - sums[y, x + width] - sums[y + height, x] + sums[y, x]
    return inside / (width * height)


def as_rows(boxes: list[Box]) -> Boxes:
    """Boxes as rows of numbers."""
    return np.array([(b.x_px, b.y_px, b.width_px, b.height_px) for b in boxes], np.int64).reshape(-1, 4)


def lattice(whole: Box, side_px: int) -> list[Box]:
    """Boxes of ``side_px`` that cover a whole image, the last row and column moved inside."""
    width, height = min(side_px, whole.width_px), min(side_px, whole.height_px)
    return [
        Box(x, y, width, height)
        for y in patch_starts(whole.height_px, height, height)
        for x in patch_starts(whole.width_px, width, width)
    ]
