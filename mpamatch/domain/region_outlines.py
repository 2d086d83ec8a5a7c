"""The outlines of areas: along pixel edges, then with few enough points for an editor.

Of rasterio it uses ``features`` alone (raster to outline, in memory): the contract of ``domain`` is numpy, scipy,
shapely and rasterio.features, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import shapely
from rasterio import features
from shapely.geometry import Polygon

from mpamatch.domain.region_areas import LabelArray

Ring = tuple[tuple[float, float], ...]
FloatPoints = npt.NDArray[np.float64]
Geometries = npt.NDArray[np.object_]

MAX_VERTICES = 200


@dataclass(frozen=True)
class Drawing:
    """How outlines are drawn: tile pixels per grid cell, tolerance and smallest hole in grid cells; the tile's size."""

    scale: float
    tolerance: float
    min_hole: float
    size_px: tuple[int, int]


def outlines(labels: LabelArray, count: int, chosen: Sequence[int]) -> dict[int, list[FloatPoints]]:
    """The rings of each chosen region along pixel edges, in grid cells; one call for all, as each call costs 0.5 ms."""
    # rasterio refuses 64-bit rasters; uint16 holds every label that a sensible cap lets through.
    table = np.zeros(count + 1, np.uint16)
    table[np.asarray(chosen, np.intp) + 1] = np.arange(1, len(chosen) + 1)
    raster = table[labels]
    # Connectivity 8 was seen to give an invalid polygon where two squares touch at a corner.
    found = features.shapes(raster, mask=raster > 0, connectivity=4)
    return {
        chosen[int(value) - 1]: [np.array(ring, np.float64) for ring in geometry["coordinates"]]
        for geometry, value in found
    }


def drawn_rings(lines: Sequence[list[FloatPoints]], drawing: Drawing) -> list[tuple[Ring, ...]]:
    """Of each region's outline few enough points for an editor, in tile pixels; all at once, as each call costs."""
    if drawing.tolerance > 0 and lines:
        rings, owners = shapely.get_rings(_all_simplified(lines, drawing), return_index=True)
    else:
        rings = np.array([shapely.linearrings(ring) for line in lines for ring in line], object)
        owners = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    points, of_ring = shapely.get_coordinates(rings, return_index=True)
    drawn = [tuple(point) for point in np.minimum(points * drawing.scale, drawing.size_px).tolist()]
    starts = np.searchsorted(of_ring, np.arange(len(rings) + 1))
    found: list[list[Ring]] = [[] for _ in lines]
    for owner, (start, stop) in zip(owners.tolist(), pairwise(starts.tolist()), strict=True):
        found[owner].append(tuple(drawn[start:stop]))
    return [tuple(mine) for mine in found]


def _all_simplified(lines: Sequence[list[FloatPoints]], drawing: Drawing) -> Geometries:
    """A valid polygon for each outline: most need but the first tolerance, and are made in one go."""
    flat = [ring for line in lines for ring in line]
    rings = shapely.linearrings(np.concatenate(flat), indices=np.repeat(np.arange(len(flat)), [len(r) for r in flat]))
    owners = np.repeat(np.arange(len(lines)), [len(line) for line in lines])
    kept = shapely.area(shapely.polygons(rings)) >= drawing.min_hole
    kept[np.flatnonzero(np.r_[True, owners[1:] != owners[:-1]])] = True  # the first ring of each is its exterior
    polygons: Geometries = shapely.simplify(
        shapely.polygons(rings[kept], indices=owners[kept]), drawing.tolerance, preserve_topology=False
    )
    fine = (shapely.get_type_id(polygons) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(polygons)
    fine &= shapely.is_valid(polygons) & (shapely.get_num_coordinates(polygons) <= MAX_VERTICES)
    for index in np.flatnonzero(~fine).tolist():
        polygons[index] = _simplified(lines[index], drawing)
    return polygons


def _simplified(rings: Sequence[FloatPoints], drawing: Drawing) -> Polygon:
    """A valid polygon of at most ``MAX_VERTICES``: the tolerance grows, then holes go, then the box is taken."""
    lines = [shapely.linearrings(ring) for ring in rings]
    holes = [line for line in lines[1:] if shapely.area(shapely.polygons(line)) >= drawing.min_hole]
    for factor, kept in ((1, holes), (2, holes), (4, holes), (8, holes), (8, [])):
        exact = shapely.polygons(lines[0], holes=kept or None)
        polygon = _largest(shapely.simplify(exact, drawing.tolerance * factor, preserve_topology=False))
        if polygon is not None and shapely.get_num_coordinates(polygon) <= MAX_VERTICES:
            return polygon
    return shapely.box(*shapely.bounds(lines[0]))


def _largest(geometry: shapely.Geometry) -> Polygon | None:
    """The geometry as one valid polygon; None where simplifying left nothing."""
    if geometry.is_empty:
        return None
    if not geometry.is_valid:
        geometry = shapely.make_valid(geometry)
    parts = [part for part in shapely.get_parts(geometry) if isinstance(part, Polygon) and part.area > 0]
    return max(parts, key=lambda part: part.area, default=None)
