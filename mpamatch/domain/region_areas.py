"""Which pixels of doubt hang together: bands taken off, small areas dropped, large ones parted. Grids of cells only.

What a person sees of an area, its outline, box and factors, is in ``regions`` and beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy import ndimage

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
LabelArray = npt.NDArray[np.int32]
Slices = tuple[slice, slice]

_MAX_HALVINGS = 5


@dataclass(frozen=True)
class Limits:
    """What a region may be, in grid cells: smallest area, longest side, width of the widest band that is none."""

    min_cells: float
    max_side: float
    band: int


def areas_of(
    doubt: BoolArray, valid: BoolArray | None, confidence: FloatArray, limits: Limits
) -> tuple[LabelArray, int]:
    """The areas of doubt, numbered from 1 without gaps, int32 (H, W), and how many there are.

    Rasters are (H, W); outside ``valid`` there is none. An area that is too long is replaced by its parts.
    """
    # Pinholes are closed before bands are taken off, or the opening would widen each of them into a gap.
    labels, count = _labelled(_opened(_closed(doubt, valid), limits.band), limits.min_cells)
    return _with_large_parted(labels, count, confidence, limits)


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
    """Without pinholes, and without what is not ``valid``."""
    # Eroding the complement's dilation treats the tile's border as inside: a region may touch it.
    filled = ~_grown(~_grown(mask, 1), 1)
    return filled if valid is None else filled & valid


def _opened(mask: BoolArray, band: int) -> BoolArray:
    """Without what is at most ``band`` cells wide: opened by a square of one cell more."""
    if band == 0:
        return mask
    radius, odd = divmod(band, 2)
    if not odd:
        return _grown(~_grown(~mask, radius), radius) & mask
    # A square of even side has no middle: it reaches one cell further to the right and below. One more row and column
    # before the first make both borders alike.
    framed = np.pad(mask, ((1, 0), (1, 0)), constant_values=True)
    core = ~_reaching(_grown(~framed, radius), backwards=True)
    return _grown(_reaching(core, backwards=False), radius)[1:, 1:] & mask


def _reaching(mask: BoolArray, *, backwards: bool) -> BoolArray:
    """Each cell or the one after it (``backwards``) or before it, along both axes."""
    for axis in (0, 1):
        low, high = _shifted(axis)
        into, of = (low, high) if backwards else (high, low)
        reached = mask.copy()
        reached[into] |= mask[of]
        mask = reached
    return mask


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
    labels: LabelArray, count: int, confidence: FloatArray, limits: Limits
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


def _fits(slices: Slices, limits: Limits) -> bool:
    return all(side.stop - side.start <= limits.max_side for side in slices)


def _parts(
    cells: BoolArray, confidence: FloatArray, limits: Limits, halvings: int
) -> Iterator[tuple[Slices, BoolArray]]:
    """The cores of doubt in one large area: its least confident half, cleaned, and of what is still large again half.

    Where that leaves nothing (doubt without a centre) or takes too long, the area is cut along a lattice.
    """
    doubt = cells & (confidence < np.median(confidence[cells]))
    labels, count = _labelled(_opened(doubt, limits.band), limits.min_cells) if halvings else (cells, 0)
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


def _lattice(cells: BoolArray, limits: Limits) -> Iterator[tuple[Slices, BoolArray]]:
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
