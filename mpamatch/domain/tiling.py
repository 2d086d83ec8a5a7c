"""Where tiles and patches lie, what of an image is tissue, and how overlapping patches are blended.

Pure numpy: takes sizes and arrays, reads no file, knows no model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

# Up to so many sides of a tile are one tile.
WHOLE_IMAGE_FACTOR = 1.5
# Saturation of glass stays under the first, of stained tissue rarely all above the second: an image that is all
# glass or all tissue has no valley for Otsu to find.
_SATURATION_RANGE = (0.05, 0.20)


@dataclass(frozen=True, order=True)
class Box:
    """A rectangle in whole pixels, origin top left; level 0 of the image unless said otherwise."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int

    @property
    def area_px(self) -> int:
        return self.width_px * self.height_px


def tile_boxes(width_px: int, height_px: int, *, tile_px: int = 1024, scale: float = 1.0) -> tuple[Box, ...]:
    """The tiles of an image, row by row, in level-0 pixels: each pixel lies in exactly one.

    ``tile_px`` is the tile's side at working resolution and ``scale`` the level-0 pixels per working pixel. Tiles are
    squares; the last of a row and of a column are as long as what is left, half a tile to one and a half. So an image
    of up to 1.5 tiles on both sides is one tile.

    Were the last one moved inside instead, a person would be asked about the same pixels in two tiles.

    >>> [(b.x_px, b.width_px) for b in tile_boxes(2100, 600)]
    [(0, 1024), (1024, 1076)]
    """
    if width_px < 1 or height_px < 1 or tile_px < 1 or scale <= 0:
        raise ValueError(f"sizes and scale must be positive: {width_px} x {height_px}, tile {tile_px}, scale {scale}")
    side = max(1, round(tile_px * scale))
    columns, rows = _cuts(width_px, side), _cuts(height_px, side)
    return tuple(Box(x, y, right - x, bottom - y) for y, bottom in pairwise(rows) for x, right in pairwise(columns))


def _cuts(length_px: int, side_px: int) -> tuple[int, ...]:
    """Where tiles begin along one side, and where the last one ends."""
    last = max(0, math.ceil(length_px / side_px - WHOLE_IMAGE_FACTOR)) * side_px
    return (*range(0, last + 1, side_px), length_px)


def tile_size(box: Box, scale: float) -> tuple[int, int]:
    """(width_px, height_px) of a tile's picture, and so of its masks, at ``scale`` level-0 pixels per pixel.

    >>> tile_size(Box(0, 0, 2048, 1000), 2.0)
    (1024, 500)
    """
    return max(1, round(box.width_px / scale)), max(1, round(box.height_px / scale))


def patch_starts(length_px: int, patch_px: int, stride_px: int) -> tuple[int, ...]:
    """Where patches begin along one side so that they cover it; the last is shifted inside.

    >>> patch_starts(10, 4, 3), patch_starts(3, 4, 3)
    ((0, 3, 6), (0,))
    """
    if length_px < 1 or patch_px < 1 or not 1 <= stride_px <= patch_px:
        raise ValueError(f"no cover of {length_px} by patches of {patch_px} at stride {stride_px}")
    last = max(0, length_px - patch_px)
    return (*range(0, last, stride_px), last)


def tissue_mask(image: npt.NDArray[np.uint8], *, cautious: bool = False) -> npt.NDArray[np.bool_]:
    """Which pixels of RGB uint8 (H, W, 3) are tissue rather than glass: Otsu's threshold on saturation, bool (H, W).

    ``cautious`` takes only for glass what is as pale as glass always is. It is for a part of an image: where there is
    no glass to find a valley beside, Otsu parts stroma from epithelium. Source: Otsu, IEEE Transactions on Systems,
    Man, and Cybernetics 9(1), 1979; the threshold is kept in a fixed range.
    """
    red, green, blue = (image[..., channel] for channel in range(3))  # by plane: an axis of three is slow to walk
    high = np.maximum(np.maximum(red, green), blue).astype(np.float32)
    low = np.minimum(np.minimum(red, green), blue).astype(np.float32)
    saturation = np.asarray((high - low) / np.maximum(high, 1.0), np.float32)
    # Black is no tissue either: pen, scanner border, the outside of a rotated section.
    saturation[high < 20] = 0.0
    least, most = _SATURATION_RANGE
    threshold = least if cautious else min(max(_otsu(saturation), least), most)
    return saturation > threshold


def _otsu(values: npt.NDArray[np.float32], bins: int = 256) -> float:
    counts, edges = np.histogram(values, bins=bins, range=(0.0, 1.0))
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    sums = np.cumsum(counts * centres)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    between[~np.isfinite(between)] = 0.0
    return float(edges[int(np.argmax(between)) + 1])


def raised_cosine_window(height_px: int, width_px: int | None = None) -> npt.NDArray[np.float32]:
    """Weights for blending a patch, float32 (H, W) in (0, 1]: a raised cosine, never zero at the border.

    At a stride of half a patch the weights of neighbours add up to a constant; elsewhere the sum is divided out.
    """

    def side(length: int) -> npt.NDArray[np.float64]:
        return 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(length) + 0.5) / length)

    weights = np.outer(side(height_px), side(width_px or height_px))
    return np.maximum(weights, 1e-4).astype(np.float32)


class PatchBlender:
    """Accumulates overlapping patches of probabilities into one raster; lives between the calls that fill it.

    >>> blender = PatchBlender(2, 4, 4)
    >>> blender.add(0, 0, np.full((2, 4, 4), 0.5, np.float32))
    >>> blender.result().shape
    (2, 4, 4)
    """

    def __init__(self, class_count: int, height_px: int, width_px: int) -> None:
        self._sum = np.zeros((class_count, height_px, width_px), np.float32)
        self._weight = np.zeros((height_px, width_px), np.float32)
        self._windows: dict[tuple[int, int], npt.NDArray[np.float32]] = {}

    def add(self, y_px: int, x_px: int, patch: npt.NDArray[np.float32]) -> None:
        """Lay a patch (C, h, w) with its corner at (y_px, x_px); what hangs over the border is cut off."""
        height = min(patch.shape[1], self._weight.shape[0] - y_px)
        width = min(patch.shape[2], self._weight.shape[1] - x_px)
        size = (patch.shape[1], patch.shape[2])
        window = self._windows.setdefault(size, raised_cosine_window(*size))[:height, :width]
        area = np.s_[y_px : y_px + height, x_px : x_px + width]
        self._sum[(slice(None), *area)] += patch[:, :height, :width] * window
        self._weight[area] += window

    def result(self) -> npt.NDArray[np.float32]:
        """The weighted mean, float32 (C, H, W). Raises ValueError when a pixel was never covered."""
        if not (self._weight > 0).all():
            raise ValueError("patches do not cover the whole raster")
        return self._sum / self._weight


class CellBlender:
    """The same for maps in cells: each patch is an even grid of cells, and so is the whole image of height and width.

    A patch is laid on the nearest cell, at most half a cell from where it is. How many channels and cells there are,
    the first patch tells.
    """

    def __init__(self, height_px: int, width_px: int) -> None:
        self._size_px = height_px, width_px
        self._blender: PatchBlender | None = None

    def add(self, y_px: int, x_px: int, patch_px: int, cells: npt.NDArray[np.float32]) -> None:
        """Lay the map (C, h, w) of a square patch of ``patch_px`` with its corner at (y_px, x_px)."""
        channels, *shape = cells.shape
        if self._blender is None:
            whole = [max(1, _nearest(side, n, patch_px)) for side, n in zip(self._size_px, shape, strict=True)]
            self._blender = PatchBlender(channels, *whole)
        self._blender.add(_nearest(y_px, shape[0], patch_px), _nearest(x_px, shape[1], patch_px), cells)

    def result(self) -> npt.NDArray[np.float32]:
        """The weighted mean, float32 (C, h, w). Raises ValueError when a cell was never covered."""
        if self._blender is None:
            raise ValueError("no patch was laid")
        return self._blender.result()


def _nearest(length_px: int, cells: int, patch_px: int) -> int:
    """A length in whole cells, of which ``cells`` are as long as a patch; halves go up, wherever the length begins."""
    return (2 * length_px * cells + patch_px) // (2 * patch_px)
