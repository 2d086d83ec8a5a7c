"""The queue as it comes out of `ranking`: every tile in order, as columns, with all that led to its place."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.candidates import Stratum
from mpamatch.domain.factors import Factors
from mpamatch.domain.look_alikes import LookAlike, LookAlikes
from mpamatch.domain.record import FirstRegion, RankedBy, Record

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

STRATA: Final[tuple[Stratum, ...]] = ("score", "class", "exploration", "audit", "cold")


@dataclass(frozen=True)
class Ranked:
    """T entries in order, (T,) each. Entry t shows the regions ``region_ids[starts[t]:starts[t + 1]]``, best first.

    ``strata`` are codes into ``STRATA``. ``regions`` are the raw figures of each one's best region, of no meaning where
    ``has_region`` is False. ``class_ids`` is -1 and ``class_worth`` nan for what was not chosen for a class;
    ``like_tile_ids`` is -1 and ``like_cosines`` nan for what looks like no artefact.
    """

    ranked_by: RankedBy
    tile_ids: Ints
    strata: Ints
    score: Floats
    noise: Floats
    propensity: Floats
    class_ids: Ints
    class_worth: Floats
    um_per_px: Floats
    like_tile_ids: Ints
    like_cosines: Floats
    has_region: Bools
    regions: Factors
    region_ids: Ints
    starts: Ints

    def __len__(self) -> int:
        return len(self.tile_ids)

    def record(self, place: int) -> Record:
        """One entry as it is kept; ``place`` counts from 0."""
        row = self.regions.take(np.array([place]))
        region: FirstRegion | None = None
        if self.has_region[place]:
            names = (field.name for field in dataclasses.fields(FirstRegion))
            values = {name: getattr(row, name)[0].item() for name in names}
            known: dict[str, Any] = {n: None if v != v else v for n, v in values.items()}  # nan is not itself
            region = FirstRegion(**known)
        worth, um_per_px, class_id = self.class_worth[place], self.um_per_px[place], int(self.class_ids[place])
        artefact, cosine = int(self.like_tile_ids[place]), float(self.like_cosines[place])
        return Record(
            ranked_by=self.ranked_by,
            tile_id=int(self.tile_ids[place]),
            stratum=STRATA[self.strata[place]],
            score=float(self.score[place]),
            noise=float(self.noise[place]),
            propensity=float(self.propensity[place]),
            regions=int(self.starts[place + 1] - self.starts[place]),
            region=region,
            class_id=None if class_id < 0 else class_id,
            class_worth=None if np.isnan(worth) else float(worth),
            um_per_px=None if np.isnan(um_per_px) else float(um_per_px),
            like=None if artefact < 0 else LookAlike(artefact, cosine),
        )

    @property
    def asked(self) -> Ints:
        """Ids of the tiles that compete for their places, in order: all but audit tiles."""
        return self.tile_ids[self.strata != STRATA.index("audit")]

    @property
    def sunk_count(self) -> int:
        """How many stand at the end for what they look like."""
        return int((self.like_tile_ids >= 0).sum())

    def sunk(self, alike: LookAlikes) -> Ranked:
        """The same order with the look-alikes of artefacts at its end, in their order among themselves, and what each
        looks like. Audit tiles keep their places: they are drawn blindly."""
        if len(alike) == 0:
            return self
        moving = np.flatnonzero(self.strata != STRATA.index("audit"))
        place = np.minimum(np.searchsorted(alike.tile_ids, self.tile_ids[moving]), len(alike) - 1)
        last = alike.tile_ids[place] == self.tile_ids[moving]
        like_tile_ids, like_cosines = self.like_tile_ids.copy(), self.like_cosines.copy()
        like_tile_ids[moving[last]] = alike.artefacts[place[last]]
        like_cosines[moving[last]] = alike.cosines[place[last]]
        order = np.arange(len(self))
        order[moving] = np.concatenate([moving[~last], moving[last]])
        noted = dataclasses.replace(self, like_tile_ids=like_tile_ids, like_cosines=like_cosines)
        return noted._take(order)

    def _take(self, order: Ints) -> Ranked:
        counts = np.diff(self.starts)[order]
        taken = {f.name: getattr(self, f.name)[order] for f in dataclasses.fields(self) if f.name not in _APART}
        return Ranked(
            ranked_by=self.ranked_by,
            regions=self.regions.take(order),
            region_ids=self.region_ids[ranges(self.starts[:-1][order], counts)],
            starts=np.concatenate([[0], np.cumsum(counts)]),
            **taken,
        )


_APART: Final = ("ranked_by", "regions", "region_ids", "starts")


def ranges(starts: Ints, counts: Ints) -> Ints:
    """start, start + 1, ... of each, one after the other.

    >>> ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    total = int(counts.sum())
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(total)
