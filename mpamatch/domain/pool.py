"""Every tile that may be asked for with its regions, as columns: what `ranking` puts in order.

Columns and no objects: a pool has up to a million regions, and a million small objects are a gigabyte.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpamatch.errors import BadInput

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class RegionColumns:
    """R regions: what one model says of each, (R,) in any order. ``tile_ids`` says whose each is.

    ``class_scores`` float32 (R, C) is the mean over the region of entropy x probability for each class, or None;
    ``bald`` and ``perimeter_px`` are nan where they are not known.
    """

    ids: Ints
    tile_ids: Ints
    area_px: Floats
    uncertainty: Floats
    margin: Floats
    impurity: Floats
    disagreement: Floats
    mean_confidence: Floats
    predicted_class: Ints
    bald: Floats
    perimeter_px: Floats
    class_scores: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Ints) -> RegionColumns:
        """Some rows, in that order."""
        given = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        taken: dict[str, Any] = {name: None if column is None else column[rows] for name, column in given}
        return RegionColumns(**taken)


@dataclass(frozen=True)
class Pool:
    """T tiles ascending by id, and their regions, those of tile t at ``starts[t]:starts[t + 1]``, ascending by id.

    Tiles of the audit split have none: what a model says of them moves nothing, not even the scales of others.
    ``groups`` are codes into ``group_names``, which ascend; ``audit`` says whether a tile is of the audit split;
    ``um_per_px`` of a tile's pixel and ``foreground`` (the share of it that is predicted as such) are nan where they
    are not known; ``looks`` are hashes of the pictures (`likeness.look_hash`), 0 where there is none.
    """

    tile_ids: Ints
    images: Ints
    groups: Ints
    group_names: tuple[str, ...]
    audit: Bools
    um_per_px: Floats
    foreground: Floats
    looks: Hashes
    regions: RegionColumns
    starts: Ints

    def __len__(self) -> int:
        return len(self.tile_ids)

    @classmethod
    def of(
        cls,
        *,
        tile_ids: Ints,
        images: Ints,
        groups: Sequence[str],
        audit: Bools,
        regions: RegionColumns,
        um_per_px: Floats | None = None,
        foreground: Floats | None = None,
        looks: Hashes | None = None,
    ) -> Pool:
        """From rows in any order; regions of audit tiles and of tiles that are not there are left out.

        Raises BadInput for a tile given twice.
        """
        order = np.argsort(tile_ids, kind="stable")
        ids = np.asarray(tile_ids, np.int64)[order]
        twice = np.flatnonzero(ids[1:] == ids[:-1])
        if twice.size:
            raise BadInput(f"tile {ids[twice[0]]}", "is given twice", "give each tile once")
        names, codes = coded(groups)
        unknown = np.full(len(ids), np.nan)
        of_audit = np.asarray(audit, bool)[order]
        kept, starts = _by_tile(ids, of_audit, regions)
        return cls(
            tile_ids=ids,
            images=np.asarray(images, np.int64)[order],
            groups=codes[order],
            group_names=names,
            audit=of_audit,
            um_per_px=unknown if um_per_px is None else np.asarray(um_per_px, np.float64)[order],
            foreground=unknown if foreground is None else np.asarray(foreground, np.float64)[order],
            looks=np.zeros(len(ids), np.uint64) if looks is None else np.asarray(looks, np.uint64)[order],
            regions=kept,
            starts=starts,
        )

    def with_bald(self, by_tile: Mapping[int, Sequence[float]]) -> Pool:
        """The same with BALD of the regions of some tiles, in the order of their ids; what does not fit is left out."""
        bald, counts = self.regions.bald.copy(), self.region_counts
        for tile_id, values in by_tile.items():
            at = int(np.searchsorted(self.tile_ids, tile_id))
            if at < len(self) and self.tile_ids[at] == tile_id and counts[at] == len(values):
                bald[self.starts[at] : self.starts[at + 1]] = values
        return dataclasses.replace(self, regions=dataclasses.replace(self.regions, bald=bald))

    @property
    def region_counts(self) -> Ints:
        """How many regions each tile has, (T,)."""
        return np.diff(self.starts)


def coded(names: Sequence[str]) -> tuple[tuple[str, ...], Ints]:
    """The distinct names in ascending order, and for each given one its place there.

    >>> coded(["b", "a", "b"])[1].tolist()
    [1, 0, 1]
    """
    distinct = sorted(set(names))
    places = {name: place for place, name in enumerate(distinct)}
    return tuple(distinct), np.fromiter((places[name] for name in names), np.int64, len(names))


def _by_tile(tile_ids: Ints, audit: Bools, regions: RegionColumns) -> tuple[RegionColumns, Ints]:
    """The regions of those of these tiles that are no audit tiles, in the tiles' order and then by id, and where each
    tile's begin."""
    place = np.searchsorted(tile_ids, regions.tile_ids)
    known = np.zeros(len(regions), bool)
    inside = place < len(tile_ids)
    known[inside] = (tile_ids[place[inside]] == regions.tile_ids[inside]) & ~audit[place[inside]]
    rows = np.flatnonzero(known)
    owner = place[rows]
    if not _ascend(owner, regions.ids[rows]):
        order = np.lexsort((regions.ids[rows], owner))
        rows, owner = rows[order], owner[order]
    starts = np.searchsorted(owner, np.arange(len(tile_ids) + 1))
    in_order = len(rows) == len(regions) and bool((np.diff(rows) > 0).all())
    return (regions if in_order else regions.take(rows)), starts


def _ascend(first: Ints, second: Ints) -> bool:
    """Whether the pairs ascend as they stand, as rows that were stored tile by tile do."""
    step, inner = np.diff(first), np.diff(second)
    return bool(((step > 0) | ((step == 0) & (inner > 0))).all())
