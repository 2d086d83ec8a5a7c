"""What a simulation compares, by name: the queue's strategies, whole tiles by chance, and `mpamatch` without a part.

A name says which function of `mpamatch.domain.strategies` picks, with which knobs, and what it is offered. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.strategies import STRATEGIES
from mpamatch.domain.strategy_names import STRATEGY_NAMES, StrategyName
from mpamatch.errors import BadInput

Offer = Literal["regions", "boxes", "tiles", "truth"]
"""``regions`` of doubt, and boxes by chance for the exploration share; ``boxes`` by chance alone; whole ``tiles``; or
both kinds of boxes with the ``truth`` about each."""

WHOLE_TILES: Final = "whole-tile-random"
BY_CHANCE: Final = ("foreground-random", "random", WHOLE_TILES)
"""What a strategy that is driven by the model has to beat, the hardest first."""

_WITHOUT: Final = "mpamatch-without-"
_FAR_FROM_CHANCE: Final = 1e9
_NO_CAP: Final = 1_000_000
# Each part of `mpamatch` by what switches it off.
_PARTS: Final[Mapping[str, Mapping[str, Any]]] = {
    "uncertainty": {"weight_uncertainty": 0.0},
    "impurity": {"weight_impurity": 0.0},
    "disagreement": {"weight_disagreement": 0.0},
    "novelty": {"weight_novelty": 0.0},
    "cost": {"cost_exponent": 0.0},
    "support": {"support_px": 0.0},
    "classes": {"class_share": 0.0},
    "exploration": {"exploration_share": 0.0},
    "noise": {"noise_beta_first": _FAR_FROM_CHANCE, "noise_beta_last": _FAR_FROM_CHANCE},
    "spreading": {"window": 1},
    "copies": {"duplicate_cosine": 1.0},
    "caps": {"image_cap": _NO_CAP, "group_share": 1.0},
    "second-looks": {},
}
NAMES: Final = (*STRATEGY_NAMES, WHOLE_TILES, *(_WITHOUT + part for part in _PARTS))


@dataclass(frozen=True)
class SimulatedStrategy:
    """``picks_by`` is the queue's strategy, ``knobs`` lie over its policy. ``asks_model``: the model looks at the pool
    first; ``second_looks``: once more for BALD."""

    name: str
    picks_by: StrategyName
    offer: Offer
    asks_model: bool
    second_looks: bool = False
    knobs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def driven_by_model(self) -> bool:
        return STRATEGIES[self.picks_by].driven_by_model

    @property
    def part_of(self) -> str | None:
        """The strategy that this one is a cut form of."""
        return "mpamatch" if self.name.startswith(_WITHOUT) else None

    def policy(self, *, tau: float, rounds: int) -> RankingPolicy:
        """The knobs it picks by, with its noise spread over so many rounds."""
        return RankingPolicy(strategy=self.picks_by, tau=tau, planned_rounds=rounds, **self.knobs)


def simulated_strategy(name: str) -> SimulatedStrategy:
    """Raises BadInput naming what is known.

    >>> simulated_strategy("mpamatch-without-novelty").policy(tau=0.95, rounds=4).weight_novelty
    0.0
    """
    if name not in NAMES:
        raise BadInput(f"strategy {name!r}", "is unknown", f"one of {', '.join(NAMES)}")
    if name == WHOLE_TILES:
        return SimulatedStrategy(name, "random", "tiles", asks_model=False)
    if name.startswith(_WITHOUT):
        part = name.removeprefix(_WITHOUT)
        looks_twice = part != "second-looks"
        return SimulatedStrategy(name, "mpamatch", "regions", True, looks_twice, _PARTS[part])
    known = cast(StrategyName, name)
    if name == "oracle":
        return SimulatedStrategy(name, known, "truth", asks_model=True)
    if not STRATEGIES[name].driven_by_model:
        return SimulatedStrategy(name, known, "boxes", asks_model=name == "foreground-random")
    return SimulatedStrategy(name, known, "regions", True, second_looks=name in ("mpamatch", "bald"))
