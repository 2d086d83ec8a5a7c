"""Probabilities and tau to regions: the connected places of a tile that a person should look at, with their factors.

Knows no file, model or project. Of rasterio it uses ``features`` alone (raster to outline, in memory): the contract of
``domain`` is numpy, scipy, shapely and rasterio.features, no I/O.

A thin band of low confidence runs along nearly every boundary that a model draws. It says that the line may lie a pixel
further, not that the tissue is unknown, so bands are taken off (morphological opening) and cores remain.

Source of the factors: entropy, margin and impurity as in Xie et al., "Towards Fewer Annotations" (RIPU), CVPR 2022.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import shapely
from rasterio import features
from scipy import ndimage
from shapely.geometry import Polygon

from mpamatch.domain.tiling import Box

Ring = tuple[tuple[float, float], ...]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.int32]
FloatPoints = npt.NDArray[np.float64]
Slices = tuple[slice, slice]

MAX_VERTICES = 200
_MIN_MAX_SIDE_PX = 96.0
_MAX_SIDE_SHARE = 3 / 8
_MAX_HALVINGS = 5


@dataclass(frozen=True)
class Region:
    """Connected pixels below tau, in tile pixels. Factors are what the model alone says of it, each 0..1.

    ``rings``: the exterior, then holes, each closed (first point = last). ``area_px`` counts pixels, so the outline's
    own area differs from it a little. ``uncertainty`` is the mean entropy / log C, ``margin`` the mean p1 - p2,
    ``impurity`` the entropy of predicted classes in the box / log C, ``class_shares`` those classes' shares.
    """

    box: Box
    rings: tuple[Ring, ...]
    area_px: int
    uncertainty: float
    margin: float
    impurity: float
    disagreement: float
    predicted_class: int
    mean_confidence: float
    class_shares: tuple[float, ...] = ()


def find_regions(
    probabilities: FloatArray,
    tau: float,
    *,
    scale: float = 1.0,
    size_px: tuple[int, int] | None = None,
    min_area_px: int = 64,
    max_regions: int = 50,
    rim_px: float = 3.0,
    simplify_px: float = 1.0,
    max_side_px: float | None = None,
    valid: BoolArray | None = None,
) -> tuple[Region, ...]:
    """The regions below ``tau``, the one with most uncertain area first; the same input gives the same regions.

    ``probabilities`` float32 (C, H, W), sums over C are 1, on the model's own grid; ``scale`` is the tile pixels per
    grid pixel, and every length here (``min_area_px``, ``rim_px``, ``simplify_px``) is in tile pixels. A raster that
    was merely interpolated from a coarser one says no more than every second pixel of it: ``p[:, ::2, ::2]`` with
    ``scale=2`` takes a third of the time; ``size_px`` (width, height) is then the tile's own size, since the last row
    and column of such a grid may reach beyond it.

    Bands up to 2 * ``rim_px`` wide are left out, as is what lies outside ``valid`` (bool (H, W)). Of what is
    wider or higher than ``max_side_px`` (96, or 3/8 of the tile's longer side where that is more) only the least
    confident half is kept, again and again until its parts fit: an early model doubts nearly everything, and a box
    around a whole tile tells a person nothing. ``simplify_px=0`` keeps the
    pixel edges and every hole; otherwise holes under ``min_area_px`` are not drawn.

    Raises ValueError for a wrong shape.
    """
    if probabilities.ndim != 3 or probabilities.shape[0] < 2 or 0 in probabilities.shape:
        raise ValueError(f"probabilities (C, H, W) with at least two classes are needed, got {probabilities.shape}")
    confidence, predicted = _best(probabilities)
    unsure = confidence < np.float32(tau)
    # Pinholes are closed before bands are taken off, or the opening would widen each of them into a gap.
    limits = _Limits(
        min_cells=max(1.0, min_area_px / scale**2),
        max_side=_max_side(confidence.shape, scale) if max_side_px is None else max(1.0, max_side_px / scale),
        rim=max(0, round(rim_px / scale)),
    )
    labels, count = _labelled(_opened(_closed(unsure, valid), limits.rim), limits.min_cells)
    labels, count = _with_large_parted(labels, count, confidence, limits)
    if count == 0:
        return ()
    facts = _Facts.of(probabilities, confidence, predicted, labels, count)
    boxes = ndimage.find_objects(labels, max_label=count)
    # Most uncertain area first; a tie goes to the upper, then the left one.
    order = sorted(range(count), key=lambda i: (-facts.worth[i], boxes[i][0].start, boxes[i][1].start, i))
    order = order[: max(0, max_regions)]
    outlines = _outlines(labels, count, order)
    rows, columns = labels.shape
    size = size_px or (max(1, round(columns * scale)), max(1, round(rows * scale)))
    drawing = _Drawing(scale, simplify_px / scale, limits.min_cells, size)
    return tuple(_region(i, boxes[i], predicted, facts, outlines[i], drawing) for i in order)


def _best(probabilities: FloatArray) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    """Highest probability and its class; a running maximum is several times faster than argmax over the first axis."""
    confidence = probabilities[0].astype(np.float32)
    predicted = np.zeros(confidence.shape, np.uint8)
    for index in range(1, probabilities.shape[0]):
        better = probabilities[index] > confidence
        np.copyto(predicted, np.uint8(index), where=better)
        np.maximum(confidence, probabilities[index], out=confidence)
    return confidence, predicted


def _grown(mask: BoolArray, radius: int) -> BoolArray:
    """Dilation by a square of side 2 * radius + 1, by shifted views: on bool arrays far faster than ndimage."""
    for _ in range(radius):
        for axis in (0, 1):
            grown = mask.copy()
            low, high = _shifted(axis)
            grown[low] |= mask[high]
            grown[high] |= mask[low]
            mask = grown
    return mask


def _shifted(axis: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    low, high = slice(None, -1), slice(1, None)
    return ((low,), (high,)) if axis == 0 else ((slice(None), low), (slice(None), high))


def _closed(mask: BoolArray, valid: BoolArray | None) -> BoolArray:
    # Eroding the complement's dilation treats the tile's border as inside: a region may touch it.
    closed = ~_grown(~_grown(mask, 1), 1)
    return closed if valid is None else closed & valid


def _opened(mask: BoolArray, radius: int) -> BoolArray:
    if radius == 0:
        return mask
    return _grown(~_grown(~mask, radius), radius) & mask


@dataclass(frozen=True)
class _Limits:
    """What a region may be, in grid cells: smallest area, longest side, half the width of a band."""

    min_cells: float
    max_side: float
    rim: int


def _max_side(grid: tuple[int, ...], scale: float) -> float:
    return max(_MIN_MAX_SIDE_PX / scale, _MAX_SIDE_SHARE * max(grid))


def _labelled(cells: BoolArray, min_cells: float) -> tuple[LabelArray, int]:
    """Connected areas of at least ``min_cells``, numbered from 1 without gaps."""
    labels, count = ndimage.label(cells)
    return _renumbered(labels, int(count), min_cells)


def _renumbered(labels: LabelArray, count: int, min_cells: float) -> tuple[LabelArray, int]:
    """Without numbers that have too few cells or none, and without gaps."""
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    kept = np.flatnonzero(areas >= min_cells)
    if kept.size == count:
        return labels, count
    table = np.zeros(count + 1, np.int32)
    table[kept] = np.arange(1, kept.size + 1)
    return table[labels], int(kept.size)


def _with_large_parted(
    labels: LabelArray, count: int, confidence: FloatArray, limits: _Limits
) -> tuple[LabelArray, int]:
    """The same areas, with each that is too long for a person's eye replaced by its parts."""
    boxes = ndimage.find_objects(labels, max_label=count)
    large = [i for i, slices in enumerate(boxes) if not _fits(slices, limits)]
    if not large:
        return labels, count
    parted = labels.copy()
    for index in large:
        cells = labels[boxes[index]] == index + 1
        parted[boxes[index]][cells] = 0
        for slices, part in _parts(cells, confidence[boxes[index]], limits, _MAX_HALVINGS):
            count += 1
            parted[boxes[index]][slices][part] = count
    return _renumbered(parted, count, limits.min_cells)


def _fits(slices: Slices, limits: _Limits) -> bool:
    return all(side.stop - side.start <= limits.max_side for side in slices)


def _parts(
    cells: BoolArray, confidence: FloatArray, limits: _Limits, halvings: int
) -> Iterator[tuple[Slices, BoolArray]]:
    """The cores of doubt in one large area: its least confident half, cleaned, and of what is still large again half.

    Where that leaves nothing (doubt without a centre) or takes too long, the area is cut along a lattice.
    """
    doubt = cells & (confidence < np.median(confidence[cells]))
    labels, count = _labelled(_opened(doubt, limits.rim), limits.min_cells) if halvings else (cells, 0)
    if count == 0:
        yield from _lattice(cells, limits)
        return
    for index, slices in enumerate(ndimage.find_objects(labels)):
        core = labels[slices] == index + 1
        if _fits(slices, limits):
            yield slices, core
            continue
        for inner, part in _parts(core, confidence[slices], limits, halvings - 1):
            yield (_moved(inner[0], slices[0].start), _moved(inner[1], slices[1].start)), part


def _lattice(cells: BoolArray, limits: _Limits) -> Iterator[tuple[Slices, BoolArray]]:
    """Equal cuts of the box; where a cut falls into several areas, each of them."""
    for rows in _cuts(cells.shape[0], limits.max_side):
        for columns in _cuts(cells.shape[1], limits.max_side):
            labels, count = _labelled(cells[rows, columns], limits.min_cells)
            for index in range(count):
                yield (rows, columns), labels == index + 1


def _moved(side: slice, offset: int) -> slice:
    return slice(side.start + offset, side.stop + offset)


def _cuts(length: int, max_side: float) -> list[slice]:
    edges = np.linspace(0, length, int(np.ceil(length / max_side)) + 1).round().astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


@dataclass(frozen=True)
class _Facts:
    """Per region, in the order of its label."""

    area: npt.NDArray[np.int64]
    uncertainty: npt.NDArray[np.float64]
    margin: npt.NDArray[np.float64]
    confidence: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.intp]
    worth: npt.NDArray[np.float64]
    class_count: int

    @classmethod
    def of(
        cls,
        probabilities: FloatArray,
        confidence: FloatArray,
        predicted: npt.NDArray[np.uint8],
        labels: LabelArray,
        count: int,
    ) -> _Facts:
        """Sums over the regions' own pixels: the logarithms of all others would cost most of the time."""
        class_count = probabilities.shape[0]
        where = np.flatnonzero(labels)
        owner = labels.ravel()[where] - 1
        area = np.bincount(owner, minlength=count)
        best, second, entropy = _pixel_facts(probabilities.reshape(class_count, -1), where)
        votes = np.bincount(owner * class_count + predicted.ravel()[where], minlength=count * class_count)

        def mean(values: FloatArray) -> npt.NDArray[np.float64]:
            return np.bincount(owner, weights=values, minlength=count) / area

        uncertainty = np.clip(mean(entropy) / np.log(class_count), 0.0, 1.0)
        return cls(
            area=area,
            uncertainty=uncertainty,
            margin=mean(best - second),
            confidence=np.bincount(owner, weights=confidence.ravel()[where], minlength=count) / area,
            predicted=votes.reshape(count, class_count).argmax(axis=1),
            worth=uncertainty * area,
            class_count=class_count,
        )


def _pixel_facts(planes: FloatArray, where: npt.NDArray[np.intp]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Highest and second probability and entropy in nats at some pixels."""
    best = np.zeros(where.size, np.float32)
    second = np.zeros(where.size, np.float32)
    entropy = np.zeros(where.size, np.float32)
    for plane in planes:
        p = plane[where]
        second = np.maximum(second, np.minimum(best, p))
        best = np.maximum(best, p)
        entropy -= p * np.log(np.maximum(p, np.float32(1e-12)))
    return best, second, entropy


@dataclass(frozen=True)
class _Drawing:
    """How outlines are drawn: tile pixels per grid cell, tolerance and smallest hole in grid cells; the tile's size."""

    scale: float
    tolerance: float
    min_hole: float
    size_px: tuple[int, int]


def _region(
    index: int,
    slices: tuple[slice, slice],
    predicted: npt.NDArray[np.uint8],
    facts: _Facts,
    outline: list[FloatPoints],
    drawing: _Drawing,
) -> Region:
    shares = np.bincount(predicted[slices].ravel(), minlength=facts.class_count) / predicted[slices].size
    present = shares[shares > 0]
    return Region(
        box=_box(slices, drawing),
        rings=_rings(outline, drawing),
        area_px=max(1, round(float(facts.area[index]) * drawing.scale**2)),
        uncertainty=float(facts.uncertainty[index]),
        margin=float(facts.margin[index]),
        impurity=min(1.0, float(-(present * np.log(present)).sum() / np.log(facts.class_count)) + 0.0),
        disagreement=0.0,
        predicted_class=int(facts.predicted[index]),
        mean_confidence=float(facts.confidence[index]),
        class_shares=tuple(float(share) for share in shares),
    )


def _box(slices: tuple[slice, slice], drawing: _Drawing) -> Box:
    """The smallest box of whole tile pixels around a region, inside the tile."""
    (left, right), (top, bottom) = (
        _side(cells, drawing.scale, length) for cells, length in zip(reversed(slices), drawing.size_px, strict=True)
    )
    return Box(left, top, right - left, bottom - top)


def _side(cells: slice, scale: float, length_px: int) -> tuple[int, int]:
    start = min(int(np.floor(cells.start * scale)), length_px - 1)
    return start, max(start + 1, min(int(np.ceil(cells.stop * scale)), length_px))


def _outlines(labels: LabelArray, count: int, chosen: Sequence[int]) -> dict[int, list[FloatPoints]]:
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


def _rings(outline: list[FloatPoints], drawing: _Drawing) -> tuple[Ring, ...]:
    """Few enough points for an editor, in tile pixels."""
    if drawing.tolerance > 0:
        polygon = _simplified(outline, drawing)
        outline = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    drawn = (np.minimum(ring * drawing.scale, drawing.size_px) for ring in outline)
    return tuple(tuple((float(x), float(y)) for x, y in ring) for ring in drawn)


def _simplified(rings: Sequence[FloatPoints], drawing: _Drawing) -> Polygon:
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
