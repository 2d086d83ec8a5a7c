"""What a project has decided: when to retrain, what to ask for, when to let a candidate serve."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mpamatch.domain.gate import GatePolicy
from mpamatch.domain.pyramid import TILE_PX, TILE_UM_PER_PX, TileScale
from mpamatch.domain.ranking import RankingPolicy
from mpamatch.domain.schedule import TriggerPolicy
from mpamatch.domain.starting import STARTS, Start
from mpamatch.errors import BadInput


@dataclass(frozen=True)
class Policy:
    """The knobs of a project; the defaults are what the embedded profile ships."""

    tau: float = 0.95
    head_size: int = 50
    audit_share: float = 0.2
    exploration_share: float = 0.1
    retrain_after_tiles: int = 12
    debounce_s: float = 10.0
    retrain_by_labels: bool = True
    train_profile: str = "demo"
    start: Start = "blank"
    tile_px: int = TILE_PX
    tile_um_per_px: float = TILE_UM_PER_PX
    gate_margin: float = 0.01
    gate_class_fall: float = 0.02
    gate_min_tiles: int = 12
    gate_min_groups: int = 4

    def __post_init__(self) -> None:
        if not 0.5 <= self.tau < 1:
            raise BadInput("tau", f"{self.tau} is outside 0.5 to 1", "use the default 0.95")
        if not 1 <= self.head_size <= 1000:
            raise BadInput("head_size", f"{self.head_size} is outside 1 to 1000", "use the default 50")
        if not 0 <= self.audit_share <= 0.5 or not 0 <= self.exploration_share <= 1:
            raise BadInput("shares", "are outside their range", "audit_share 0 to 0.5, exploration_share 0 to 1")
        if self.start not in STARTS:
            raise BadInput("start", f"{self.start!r} is unknown", f"one of {', '.join(STARTS)}")
        TileScale(self.tile_px, self.tile_um_per_px)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Policy:
        """Unknown names are refused, so that a typing slip cannot hide. Raises BadInput."""
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise BadInput(f"policy {unknown[0]!r}", "is unknown", f"known: {', '.join(sorted(known))}")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def ranking_with(self, *, audit_tiles: int, audit_groups: int) -> RankingPolicy:
        """The ranking's knobs; the audit share halves once the gate has the audit masks that it needs."""
        enough = audit_tiles >= self.gate_min_tiles and audit_groups >= self.gate_min_groups
        return RankingPolicy(
            head_size=self.head_size,
            audit_share=self.audit_share / 2 if enough else self.audit_share,
            exploration_share=self.exploration_share,
            tau=self.tau,
        )

    @property
    def tile_scale(self) -> TileScale:
        """How large images are cut; one scale for all of a project, since its models learn at one."""
        return TileScale(self.tile_px, self.tile_um_per_px)

    @property
    def trigger(self) -> TriggerPolicy:
        return TriggerPolicy(
            after_tiles=self.retrain_after_tiles, debounce_s=self.debounce_s, by_labels=self.retrain_by_labels
        )

    @property
    def gate(self) -> GatePolicy:
        return GatePolicy(
            margin=self.gate_margin,
            class_fall=self.gate_class_fall,
            min_tiles=self.gate_min_tiles,
            min_groups=self.gate_min_groups,
        )
