"""What is kept of one choice: every figure that led to it, so that it can be computed again from the record alone."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from mpamatch.domain.candidates import Stratum
from mpamatch.domain.factors import Factors, Scales
from mpamatch.domain.look_alikes import LookAlike
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.strategies import strategy


@dataclass(frozen=True)
class RankedBy:
    """What holds for every entry of one order: the knobs, the pool's scales, and what chance hung on."""

    policy: RankingPolicy
    scales: Scales
    seed: int
    round_number: int

    def to_json(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "policy": self.policy.to_json()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RankedBy:
        """The inverse of :meth:`to_json`."""
        policy = RankingPolicy.from_json(values["policy"])
        return cls(policy, Scales(**values["scales"]), int(values["seed"]), int(values["round_number"]))


@dataclass(frozen=True)
class FirstRegion:
    """Raw figures of the region for which a tile was chosen; None where one is not known. As in `Factors`."""

    area_px: float
    uncertainty: float
    margin: float
    impurity: float
    disagreement: float
    mean_confidence: float
    predicted_class: int
    clicks: float
    bald: float | None = None
    distance: float | None = None

    def factors(self) -> Factors:
        """The same as columns of one row."""
        row = {name: np.array([math.nan if v is None else v]) for name, v in dataclasses.asdict(self).items()}
        return Factors(**row, true_error=np.array([math.nan]))


@dataclass(frozen=True)
class Record:
    """One entry as it was chosen. ``class_id`` and ``class_worth``: for which class, and what spoke for it as such.

    ``um_per_px`` is that of a pixel of the tile, None where the scale is not known. ``region`` is None for tiles that
    no region speaks for. ``regions`` counts those of the tile that are shown. ``like``: why it stands at the end,
    whatever its score. ``note`` is said before the reasons.
    """

    ranked_by: RankedBy
    tile_id: int
    stratum: Stratum
    score: float
    noise: float
    propensity: float
    regions: int
    region: FirstRegion | None
    class_id: int | None = None
    class_worth: float | None = None
    um_per_px: float | None = None
    like: LookAlike | None = None
    note: str | None = None


def recompute(record: Record) -> float:
    """The score from the raw figures: that of the record, unless the record is not what was chosen by."""
    if record.region is None or record.stratum in ("audit", "cold"):
        return 0.0
    by = record.ranked_by
    worth = strategy(by.policy.strategy).worth
    return float(worth(record.region.factors(), by.policy, by.scales)[0])


def recompute_key(record: Record) -> float:
    """By what the entry stands among those of its kind: for `mpamatch`, log of the score + noise; -inf for nothing."""
    if record.region is None:
        return -math.inf
    key = strategy(record.ranked_by.policy.strategy).key
    return float(key(np.array([recompute(record)]), np.array([record.noise]))[0])
