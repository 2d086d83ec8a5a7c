"""What a simulation will take, said before it begins: seconds of one core by its plan. Pure.

Measured with the default encoder on one thread of a small server, 4 labelled and 4 pool crops of 96 px a step: a rough
figure elsewhere, and too low where other work shares the cores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from mpamatch.domain.recipe import Recipe
from mpamatch.experiments.simulation.plan import ALL_LABELS, START, SimulatedCell
from mpamatch.experiments.simulation.strategies import simulated_strategy

_STEP_S: Final = {"labels": 0.21, "pool": 0.47, "prototypes": 0.53}
_MEASURED_CROP_PX, _MEASURED_BATCH = 96, 4
# Of pixels at the working scale, in millions: to score them, to look at them, and to look twice.
_SCORE_S, _LOOK_S, _SECOND_LOOK_S = 4.0, 6.0, 12.0
_CELL_S: Final = 15.0
"""To start a process and to load its libraries."""


@dataclass(frozen=True)
class Extent:
    """Pixels at the working scale, in millions: of the train images, and of those that are scored beside them."""

    train_mpx: float
    scored_mpx: float


def core_seconds(cells: Sequence[SimulatedCell], extent: Extent) -> float:
    """All cells together, as if none were done."""
    return sum(_of_cell(cell, extent) for cell in cells)


def _of_cell(cell: SimulatedCell, extent: Extent) -> float:
    rounds = len(cell.round_numbers)
    looking = 0.0
    if cell.strategy not in (START, ALL_LABELS):
        strategy = simulated_strategy(cell.strategy)
        looking = _LOOK_S * strategy.asks_model + _SECOND_LOOK_S * strategy.second_looks
    scoring = _SCORE_S * (extent.train_mpx + extent.scored_mpx)
    return _CELL_S + cell.steps * _step_s(cell.recipe) + rounds * (scoring + looking * extent.train_mpx)


def _step_s(recipe: Recipe) -> float:
    kind = "prototypes" if recipe.prototype_weight > 0 else "pool" if recipe.uses_pool else "labels"
    return _STEP_S[kind] * (recipe.crop_px / _MEASURED_CROP_PX) ** 2 * recipe.labelled_batch / _MEASURED_BATCH
