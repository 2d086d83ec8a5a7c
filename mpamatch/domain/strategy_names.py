"""The strategies' names: what a recipe, a policy and an experiment may say. What each does is in `strategies`."""

from __future__ import annotations

from typing import Literal, get_args

StrategyName = Literal[
    "mpamatch",
    "random",
    "foreground-random",
    "entropy",
    "margin",
    "bald",
    "coreset",
    "ripu",
    "disagreement",
    "oracle",
]
STRATEGY_NAMES: tuple[str, ...] = get_args(StrategyName)

SIMULATION_ONLY: frozenset[str] = frozenset({"oracle"})
"""What needs to know the truth, which a queue of real work does not."""
