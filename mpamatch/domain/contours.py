"""What there is to draw in a mask: how many areas, and how long their outlines are. Pure.

Only outlines that run through the mask count. Where an area is cut off by the mask's border, whoever draws it goes
beyond the border and need not follow it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import shapely

from mpamatch.domain.masks import Mask
from mpamatch.domain.outlines import outlines

SIMPLIFIED_PX: Final = 2.0
"""How far an outline may be off when it is drawn with few points."""


@dataclass(frozen=True)
class Contours:
    """``areas`` are connected areas of a class other than background; ``length_px`` that of their simplified outlines,
    holes included."""

    areas: int
    length_px: float


def contours_of(mask: Mask, *, tolerance_px: float = SIMPLIFIED_PX) -> Contours:
    """The outlines of a mask, uint8 (H, W) with 255 where nothing is known, simplified to ``tolerance_px``.

    >>> square = np.zeros((9, 9), np.uint8)
    >>> square[2:7, 2:7] = 1
    >>> contours_of(square)
    Contours(areas=1, length_px=20.0)
    >>> contours_of(square[:, :5])
    Contours(areas=1, length_px=11.0)
    """
    found = outlines(mask)
    polygons = np.array([one.polygon for one in found], object)
    rings = shapely.get_rings(shapely.simplify(polygons, tolerance_px))
    return Contours(len(found), float(sum(_length_inside(ring, mask.shape) for ring in rings)))


def _length_inside(ring: shapely.LinearRing, shape: tuple[int, ...]) -> float:
    """The length of a ring without what lies along the border of a mask of that shape."""
    points = shapely.get_coordinates(ring)
    first, second = points[:-1], points[1:]
    along = np.zeros(len(first), bool)
    for axis, side_px in enumerate((shape[1], shape[0])):
        for border in (0, side_px):
            along |= (first[:, axis] == border) & (second[:, axis] == border)
    return float(np.hypot(*(second - first).T)[~along].sum())
