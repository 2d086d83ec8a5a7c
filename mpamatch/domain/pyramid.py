"""The scale that tiles of a slide have, and which level of its pyramid they are read from.

Pure. ``scale`` is always level-0 pixels per tile pixel, ``um_per_px`` the side of one pixel in micrometres.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput

TILE_PX = 1024
TILE_UM_PER_PX = 0.5
# What a scanner can have meant: above it are print resolutions (300 dots per inch are 85 um), below it nothing optical.
UM_PER_PX_RANGE = (0.02, 10.0)
# A scale this near to a whole number is taken as that: the pixels of a level then need no resampling, and outlines
# lie on pixel edges of level 0. The tile keeps its true um per px, so nothing is lost by it.
_WHOLE_TOLERANCE = 0.02
_WHOLE_PX = 0.05


@dataclass(frozen=True)
class TileScale:
    """What was asked for: the side of a tile, and the micrometres of one of its pixels."""

    tile_px: int = TILE_PX
    um_per_px: float = TILE_UM_PER_PX

    def __post_init__(self) -> None:
        if not 64 <= self.tile_px <= 4096:
            raise BadInput("tile side", f"{self.tile_px} px is outside 64 to 4096", "use the default 1024")
        if not UM_PER_PX_RANGE[0] <= self.um_per_px <= UM_PER_PX_RANGE[1]:
            problem = f"{self.um_per_px} um per px is outside {UM_PER_PX_RANGE[0]} to {UM_PER_PX_RANGE[1]}"
            raise BadInput("scale of tiles", problem, "use the default 0.5")

    def for_image(self, um_per_px: float | None) -> float:
        """The scale of an image's tiles, rounded so that ``tile_px`` of its pixels are whole pixels of level 0."""
        return round(self.tile_px * tile_scale(um_per_px, self.um_per_px)) / self.tile_px


@dataclass(frozen=True)
class Level:
    """One level of a pyramid: its size, and level-0 pixels per pixel of it, horizontally and vertically."""

    width_px: int
    height_px: int
    x_factor: float
    y_factor: float

    @property
    def factor(self) -> float:
        return max(self.x_factor, self.y_factor)


def levels_of(sizes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """The levels of a pyramid by their sizes (width, height), level 0 first.

    Each level is taken to cover the same area as level 0, as GDAL takes it. A writer that drops odd rows instead is
    misread by less than one pixel of that level, at its far end.

    >>> [level.x_factor for level in levels_of([(2220, 2967), (1110, 1483)])]
    [1.0, 2.0]
    """
    width, height = sizes[0]
    return tuple(Level(w, h, width / w, height / h) for w, h in sizes)


def same_picture(whole: tuple[int, int], small: tuple[int, int]) -> bool:
    """Whether a size can be a reduced form of another: labels and overviews of the glass lie in the same file."""
    (width, height), (w, h) = whole, small
    if w > width or h > height:
        return False
    # One pixel of rounding on each side of the smaller one.
    return abs(width / w - height / h) <= max(width / w / w, height / h / h) * 1.5


def tile_scale(um_per_px: float | None, wanted_um_per_px: float) -> float:
    """Level-0 pixels per tile pixel. Never below 1: enlarging shows nothing more. 1 where um per px is unknown.

    >>> tile_scale(0.2527, 0.5), tile_scale(0.499, 0.5), tile_scale(0.37, 0.5), tile_scale(None, 0.5)
    (2.0, 1.0, 1.3513513513513513, 1.0)
    """
    if um_per_px is None:
        return 1.0
    scale = max(1.0, wanted_um_per_px / um_per_px)
    whole = round(scale)
    return float(whole) if abs(scale - whole) <= _WHOLE_TOLERANCE * whole else scale


def plausible_um_per_px(value: float | None) -> float | None:
    """The value if a scanner can have meant it, else None."""
    low, high = UM_PER_PX_RANGE
    return value if value is not None and low <= value <= high else None


def choose_level(levels: Sequence[Level], scale: float) -> int:
    """The coarsest level that still has every pixel that ``scale`` needs: the nearest finer one.

    Coarser by a hundredth counts as equal: an odd row makes a factor of 2.0007 out of 2.

    >>> choose_level(levels_of([(4096, 4096), (2048, 2048), (1024, 1024)]), 3.0)
    1
    """
    fine = [i for i, level in enumerate(levels) if level.factor <= scale * 1.01]
    return max(fine, key=lambda i: levels[i].factor, default=0)


def window_at(level: Level, box: Box) -> tuple[Box, tuple[float, float, float, float]]:
    """Where a box of level 0 lies in a level: the whole pixels that cover it, and the exact place within those.

    The place is (left, top, right, bottom) in pixels of the window, as resampling wants it. What is off by less than
    a twentieth of a pixel is taken as whole: that is not worth the blur of resampling.
    """
    left, right = (_snapped(x / level.x_factor) for x in (box.x_px, box.x_px + box.width_px))
    top, bottom = (_snapped(y / level.y_factor) for y in (box.y_px, box.y_px + box.height_px))
    x, y = min(int(left), level.width_px - 1), min(int(top), level.height_px - 1)
    width = max(1, min(math.ceil(right), level.width_px) - x)
    height = max(1, min(math.ceil(bottom), level.height_px) - y)
    return Box(x, y, width, height), (left - x, top - y, min(right - x, width), min(bottom - y, height))


def _snapped(value: float) -> float:
    near = round(value)
    return float(near) if abs(value - near) < _WHOLE_PX else value
