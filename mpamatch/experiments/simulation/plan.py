"""What a simulation's cells are: for each seed a start, a reference with all labels, and a cell for each strategy.

The start of a seed is trained once, and every strategy of that seed goes on from its model.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from mpamatch.datasets import open_dataset
from mpamatch.datasets.protocols import draw_labelled
from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput
from mpamatch.experiments.arms import Arm, arm_recipe
from mpamatch.experiments.plans import CELL_RESULT, CellPlan
from mpamatch.experiments.protocol import Division, divide
from mpamatch.experiments.simulation.oracle import clicks_for
from mpamatch.experiments.simulation.strategies import simulated_strategy
from mpamatch.files.images import image_size

START, ALL_LABELS = "start", "all-labels"
ROUND_FOLDER, START_MODEL = "round-{}", Path("round-0") / "model"
BUDGET_SHARE: Final = 0.04
"""Of the clicks that all train images take, for each round."""
BOX_PX: Final = 32
"""Side of a box at the working scale."""

_START = {"glas": 2, "ebhi": 8}
_START_SHARE = 0.05


@dataclass(frozen=True)
class Simulation:
    """What all cells of a simulation share, as it was asked for; None is what ``plan_cells`` finds in the data.

    ``labelled`` whole images are known at the start. ``budget_clicks`` is that of a round. ``cold_rounds``: each round
    trains anew, and for as long as the start did, instead of going on from the last model on the short schedule.
    """

    dataset: str
    root: Path
    profile: str
    strategies: tuple[str, ...]
    rounds: int
    seeds: int
    method: str = "supervised"
    encoder: str | None = None
    labelled: int | None = None
    budget_clicks: float | None = None
    box_px: int = BOX_PX
    cold_rounds: bool = False
    knobs: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    keep_models: bool = False
    weights_dir: Path | None = None


@dataclass(frozen=True)
class SimulatedCell(CellPlan):
    """The plan of one strategy with one seed. ``box_side_px`` is in pixels of the images."""

    PLACES: ClassVar[tuple[str, ...]] = ("root", "weights_dir")

    strategy: str
    seed: int
    rounds: int
    dataset: str
    root: Path
    labelled: int
    budget_clicks: float
    box_side_px: int
    cold_rounds: bool
    recipe: Recipe
    threads: int
    keep_models: bool
    weights_dir: Path | None = None

    @property
    def place(self) -> Path:
        return place_of(self.strategy, self.seed)

    @property
    def words(self) -> str:
        return f"{self.strategy} seed {self.seed}"

    @property
    def round_numbers(self) -> range:
        """The rounds that it trains in: 0 is the start."""
        if self.strategy == START:
            return range(1)
        if self.strategy == ALL_LABELS:
            return range(1 if self.cold_rounds else self.rounds + 1)
        return range(1, self.rounds + 1)

    @property
    def steps(self) -> int:
        return sum(self.steps_of(number) for number in self.round_numbers)

    def steps_of(self, round_number: int) -> int:
        return self.recipe.steps(warm=round_number > 0 and not self.cold_rounds)


def place_of(strategy: str, seed: int) -> Path:
    """The folder of a cell, below the simulation's."""
    return Path("cells") / strategy / f"seed-{seed}"


def plan_cells(simulation: Simulation, division: Division) -> list[SimulatedCell]:
    """Every cell, seed by seed and the start first. Raises BadInput."""
    if twice := next((n for n in simulation.strategies if simulation.strategies.count(n) > 1), None):
        raise BadInput(f"strategy {twice!r}", "is named twice", "name each once")
    for name in simulation.strategies:
        simulated_strategy(name)
    images = len(division.train)
    arm = Arm("simulate", simulation.method)
    recipe = arm_recipe(
        arm, simulation.profile, encoder=simulation.encoder, knobs=simulation.knobs, train_images=images
    )
    budget = simulation.budget_clicks or BUDGET_SHARE * clicks_of_all(division)
    weights_dir = None if simulation.weights_dir is None else simulation.weights_dir.resolve()
    return [
        SimulatedCell(
            strategy=strategy,
            seed=seed,
            rounds=simulation.rounds,
            dataset=simulation.dataset,
            root=simulation.root.resolve(),
            labelled=_labelled_count(simulation, images),
            budget_clicks=round(budget, 1),
            box_side_px=round(simulation.box_px * _reduction(recipe, division)),
            cold_rounds=simulation.cold_rounds,
            recipe=recipe,
            threads=simulation.threads,
            keep_models=simulation.keep_models,
            weights_dir=weights_dir,
        )
        for seed in range(simulation.seeds)
        for strategy in (START, ALL_LABELS, *simulation.strategies)
    ]


def division_of(dataset: str, root: Path) -> Division:
    """The train list, and the validation list that is scored and never chosen on. Raises BadInput."""
    return divide(open_dataset(dataset, root), None, 0)


def clicks_of_all(division: Division) -> float:
    """What it takes to draw every train image whole."""
    return sum(clicks_for(division.data.read_mask(item), None) for item in division.train)


def start_tiles(cell: SimulatedCell, division: Division) -> tuple[int, ...]:
    """The numbers of the images that are labelled whole from the start: the same for every strategy of a seed."""
    names = set(draw_labelled(division.train, cell.labelled, cell.seed))
    return tuple(tile for tile, item in enumerate(division.train) if item.name in names)


def after_start(
    cell: SimulatedCell, done: Sequence[SimulatedCell], failed: Sequence[SimulatedCell]
) -> SimulatedCell | str | None:
    """For the runner: a strategy waits for its seed's start."""
    if cell.strategy in (START, ALL_LABELS):
        return cell
    if any((one.strategy, one.seed) == (START, cell.seed) for one in failed):
        return f"the start of seed {cell.seed} failed: there is no model to go on from"
    return cell if any((one.strategy, one.seed) == (START, cell.seed) for one in done) else None


def forget_lost_starts(cells: Sequence[SimulatedCell], out: Path) -> None:
    """Have a start trained again whose figures are there and whose model is not, where a strategy still needs it."""
    open_seeds = {
        one.seed
        for one in cells
        if one.strategy not in (START, ALL_LABELS) and not (out / one.place / CELL_RESULT).is_file()
    }
    for seed in open_seeds:
        folder = out / place_of(START, seed)
        if (folder / CELL_RESULT).is_file() and not (folder / START_MODEL).is_dir():
            (folder / CELL_RESULT).unlink()
            shutil.rmtree(folder / START_MODEL.parent, ignore_errors=True)


def _labelled_count(simulation: Simulation, images: int) -> int:
    count = simulation.labelled
    if count is None:
        count = _START.get(simulation.dataset.partition("-")[0], max(1, round(_START_SHARE * images)))
    if not 1 <= count < images:
        raise BadInput("labelled images", f"{count} wanted of {images} train images", "leave some to choose from")
    return count


def _reduction(recipe: Recipe, division: Division) -> float:
    sides = sorted(max(image_size(item.image)) for item in division.train)
    return recipe.reduction_for(sides[len(sides) // 2])
