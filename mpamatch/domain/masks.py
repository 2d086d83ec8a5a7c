"""Masks as arrays: combine, paint, cut, resample, compare. uint8 (H, W) class ids, 255 = no supervision.

Pure; of rasterio it uses ``features`` alone (polygons to raster, in memory). Nothing here modifies its arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
from rasterio import features
from shapely.geometry import Polygon, mapping
from shapely.geometry.base import BaseGeometry

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.tiling import Box

Mask = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
Rings = Sequence[Sequence[tuple[float, float]]]


def unsupervised(width_px: int, height_px: int) -> Mask:
    """A mask without any supervision."""
    return np.full((height_px, width_px), IGNORE, np.uint8)


def combine(older: Mask, newer: Mask) -> Mask:
    """The newer mask where it says something, the older elsewhere. Raises ValueError for different sizes."""
    if older.shape != newer.shape:
        raise ValueError(f"masks of {older.shape} and {newer.shape} cannot be combined")
    return np.where(newer != IGNORE, newer, older)


def paint(mask: Mask, where: BoolArray, class_id: int) -> Mask:
    """A copy with one class laid over; the last to be painted is on top."""
    painted = mask.copy()
    painted[where] = class_id
    return painted


def keep_only(mask: Mask, where: BoolArray) -> Mask:
    """The mask inside ``where``, no supervision outside."""
    return np.where(where, mask, np.uint8(IGNORE))


def crop(mask: Mask, box: Box) -> Mask:
    """The part of a mask inside a box of the same frame."""
    return mask[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px].copy()


def inside_boxes(boxes: Iterable[Box], width_px: int, height_px: int) -> BoolArray:
    """Which pixels lie in at least one box; what hangs over the border is cut off."""
    inside = np.zeros((height_px, width_px), bool)
    for box in boxes:
        rows = slice(max(0, box.y_px), max(0, box.y_px + box.height_px))
        inside[rows, max(0, box.x_px) : max(0, box.x_px + box.width_px)] = True
    return inside


def inside_polygon(rings: Rings, width_px: int, height_px: int) -> BoolArray:
    """Which pixels have their centre inside a polygon: the exterior, then holes. Fewer than 3 points are nothing.

    >>> int(inside_polygon([[(0, 0), (4, 0), (4, 2), (0, 2)]], 5, 5).sum())
    8
    """
    if not rings or len(rings[0]) < 3:
        return np.zeros((height_px, width_px), bool)
    return inside_geometry(Polygon(rings[0], [ring for ring in rings[1:] if len(ring) >= 3]), width_px, height_px)


def inside_geometry(geometry: BaseGeometry, width_px: int, height_px: int) -> BoolArray:
    """Which pixels have their centre inside a shapely geometry."""
    if geometry.is_empty:
        return np.zeros((height_px, width_px), bool)
    raster = features.rasterize([(mapping(geometry), 1)], out_shape=(height_px, width_px), fill=0, dtype="uint8")
    return raster.astype(bool)


def resample(mask: Mask, width_px: int, height_px: int) -> Mask:
    """Nearest neighbour at pixel centres, so that no id is made up; the same size gives an equal copy."""
    rows = _nearest(mask.shape[0], height_px)
    columns = _nearest(mask.shape[1], width_px)
    return mask[rows[:, None], columns[None, :]]


def _nearest(old: int, new: int) -> npt.NDArray[np.intp]:
    return np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(np.intp)


def reviewed_share(mask: Mask) -> float:
    """The share of pixels with supervision, 0..1; 0 for an empty mask."""
    return float((mask != IGNORE).mean()) if mask.size else 0.0


def class_areas(mask: Mask, class_count: int) -> tuple[int, ...]:
    """Pixels of each class id; those without supervision are in none."""
    return tuple(int(n) for n in np.bincount(mask.ravel(), minlength=256)[:class_count])


def changed_share(before: Mask, after: Mask) -> float:
    """The share of pixels supervised in ``after`` that differ from ``before``; 0 when none is supervised."""
    supervised = after != IGNORE
    return float((before[supervised] != after[supervised]).mean()) if supervised.any() else 0.0
