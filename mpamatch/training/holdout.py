"""Which labelled tiles a run keeps out of its own gradient, for early figures and the temperature.

A stable fifth of the labelled groups, in hash order, so that it hardly moves as labels are added. Pure.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mpamatch.training.batches import Sample

_LEAST_TILES = 4
_LEAST_GROUPS = 4


@dataclass(frozen=True)
class Holdout:
    """``kept`` are the tile ids kept back, ``by`` what was drawn (groups, tiles or nothing), ``units`` how many."""

    kept: frozenset[int]
    by: Literal["group", "tile", "none"]
    units: int


def choose_holdout(samples: Sequence[Sample], classes: Mapping[int, frozenset[int]], share: float) -> Holdout:
    """Keep back ``share`` of the groups, or of the tiles while there are fewer than four groups.

    Nothing is kept of fewer than four tiles. ``classes`` names the classes labelled in each tile id; a unit whose
    loss would leave the gradient without a class is passed over. The order of ``samples`` does not matter.

    >>> choose_holdout([], {}, 0.2)
    Holdout(kept=frozenset(), by='none', units=0)
    """
    if len(samples) < _LEAST_TILES or share <= 0:
        return Holdout(frozenset(), "none", 0)
    groups: dict[str, list[int]] = {}
    for sample in samples:
        groups.setdefault(sample.group, []).append(sample.tile)
    by: Literal["group", "tile"] = "group" if len(groups) >= _LEAST_GROUPS else "tile"
    units = groups if by == "group" else {str(s.tile): [s.tile] for s in samples}
    count = max(1, math.floor(share * len(units)))
    kept: set[int] = set()
    taken = 0
    for name in sorted(units, key=_hash):
        if taken < count and _classes_left(samples, classes, kept | set(units[name])):
            kept |= set(units[name])
            taken += 1
    return Holdout(frozenset(kept), by if kept else "none", taken)


def _classes_left(samples: Sequence[Sample], classes: Mapping[int, frozenset[int]], kept: set[int]) -> bool:
    every = frozenset().union(*(classes[s.tile] for s in samples))
    left = frozenset().union(*(classes[s.tile] for s in samples if s.tile not in kept))
    return left == every


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
