"""Where tiles and patches lie, what of an image is tissue, and how overlapping patches are blended.

Pure numpy: takes sizes and arrays, reads no file, knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
    """The tiles of an image, row by row, in level-0 pixels.

    ``tile_px`` is the tile's side at working resolution and ``scale`` the level-0 pixels per working pixel. An image
    of up to 1.5 tiles on both sides is one tile. A larger one is cut in squares; the last row and column are shifted
    inside, and a side shorter than a tile is taken whole.

    >>> [b.x_px for b in tile_boxes(2100, 600)]
    [0, 1024, 1076]
    """
    if width_px < 1 or height_px < 1 or tile_px < 1 or scale <= 0:
        raise ValueError(f"sizes and scale must be positive: {width_px} x {height_px}, tile {tile_px}, scale {scale}")
    side = max(1, round(tile_px * scale))
    if max(width_px, height_px) <= WHOLE_IMAGE_FACTOR * side:
        return (Box(0, 0, width_px, height_px),)
    return tuple(
        Box(x, y, min(side, width_px), min(side, height_px))
        for y in patch_starts(height_px, side, side)
        for x in patch_starts(width_px, side, side)
    )


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


def tissue_mask(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Which pixels of RGB uint8 (H, W, 3) are tissue rather than glass: Otsu's threshold on saturation, bool (H, W).

    Source: Otsu, IEEE Transactions on Systems, Man, and Cybernetics 9(1), 1979; the threshold is kept in a fixed range.
    """
    high = image.max(axis=2).astype(np.float32)
    saturation = (high - image.min(axis=2)) / np.maximum(high, 1.0)
    # Black is no tissue either: pen, scanner border, the outside of a rotated section.
    saturation[high < 20] = 0.0
    threshold = min(max(_otsu(saturation), _SATURATION_RANGE[0]), _SATURATION_RANGE[1])
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
