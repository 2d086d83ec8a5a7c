"""What a project has decided: when to retrain, what to ask for, when to let a candidate serve."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mpamatch.domain.classes import ClassSet
from mpamatch.domain.cost import CostModel
from mpamatch.domain.gate import GatePolicy
from mpamatch.domain.pyramid import TILE_PX, TILE_UM_PER_PX, TileScale
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.recipe import METHODS
from mpamatch.domain.schedule import TriggerPolicy
from mpamatch.domain.starting import STARTS, Start
from mpamatch.domain.strategy_names import SIMULATION_ONLY, STRATEGY_NAMES, StrategyName
from mpamatch.errors import BadInput

RankBy = Literal["score", "worth-per-minute"]
"""``score``: what a label costs counts by its square root, above a floor; ``worth-per-minute``: it divides."""


@dataclass(frozen=True)
class Policy:
    """The knobs of a project; the defaults are what the embedded profile ships.

    ``tau_by_class``: another tau where a class of that name is predicted. ``second_look_heads``: how many heads of the
    queue, from its start, get a second look after a new champion. ``artefact_cosine``: what looks more like an artefact
    than that goes to the end of the order. ``train_method``: how runs train; None is the shipped method.
    """

    tau: float = 0.95
    tau_by_class: Mapping[str, float] = field(default_factory=dict)
    head_size: int = 50
    audit_share: float = 0.2
    exploration_share: float = 0.1
    strategy: StrategyName = "mpamatch"
    rank_by: RankBy = "score"
    second_look_heads: int = 5
    artefact_cosine: float = 0.95
    retrain_after_tiles: int = 12
    debounce_s: float = 10.0
    retrain_by_labels: bool = True
    train_profile: str = "demo"
    train_method: str | None = None
    start: Start = "blank"
    tile_px: int = TILE_PX
    tile_um_per_px: float = TILE_UM_PER_PX
    gate_margin: float = 0.01
    gate_class_fall: float = 0.02
    gate_min_tiles: int = 12
    gate_min_groups: int = 4

    def __post_init__(self) -> None:
        for name, tau in (("tau", self.tau), *((f"tau of {name!r}", t) for name, t in self.tau_by_class.items())):
            if not 0.5 <= tau < 1:
                raise BadInput(name, f"{tau} is outside 0.5 to 1", "use the default 0.95")
        if not 1 <= self.head_size <= 1000:
            raise BadInput("head_size", f"{self.head_size} is outside 1 to 1000", "use the default 50")
        if not 0 <= self.audit_share <= 0.5 or not 0 <= self.exploration_share <= 1:
            raise BadInput("shares", "are outside their range", "audit_share 0 to 0.5, exploration_share 0 to 1")
        for name, value, known in (
            ("strategy", self.strategy, [n for n in STRATEGY_NAMES if n not in SIMULATION_ONLY]),
            ("rank_by", self.rank_by, list(get_args(RankBy))),
        ):
            if value not in known:
                raise BadInput(f"{name} {value!r}", "is unknown to a queue", f"one of {', '.join(known)}")
        if not 0 <= self.second_look_heads <= 100:
            raise BadInput("second_look_heads", f"{self.second_look_heads} is outside 0 to 100", "use the default 5")
        if not 0 < self.artefact_cosine <= 1:
            raise BadInput("artefact_cosine", f"{self.artefact_cosine} is outside 0 to 1", "use the default 0.95")
        if self.train_method is not None and self.train_method not in METHODS:
            raise BadInput(f"training method {self.train_method!r}", "is unknown", f"one of {', '.join(METHODS)}")
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

    def taus(self, classes: ClassSet) -> tuple[float, ...]:
        """The tau of each class by id; empty where one holds for all. Raises BadInput for a class that is not there."""
        own = {classes.id_of(name): tau for name, tau in self.tau_by_class.items()}
        return tuple(own.get(c.id, self.tau) for c in classes.classes) if own else ()

    def ranking_with(
        self, *, audit_tiles: int, audit_groups: int, taus: tuple[float, ...] = (), cost: CostModel = CostModel()
    ) -> RankingPolicy:
        """The ranking's knobs; the audit share halves once the gate has the audit masks that it needs."""
        floor, exponent = (0.0, 1.0) if self.rank_by == "worth-per-minute" else (0.25, 0.5)
        enough = audit_tiles >= self.gate_min_tiles and audit_groups >= self.gate_min_groups
        return RankingPolicy(
            head_size=self.head_size,
            audit_share=self.audit_share / 2 if enough else self.audit_share,
            exploration_share=self.exploration_share,
            strategy=self.strategy,
            cost=cost,
            cost_floor=floor,
            cost_exponent=exponent,
            tau=self.tau,
            taus=taus,
            artefact_cosine=self.artefact_cosine,
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
