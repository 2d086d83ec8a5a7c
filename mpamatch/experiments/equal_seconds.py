"""The rule of arms that get another arm's training seconds: they wait for it, and take as many steps as fit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpamatch.experiments.arms import Experiment
from mpamatch.experiments.plans import CELL_PLAN, CELL_RESULT, read_plan
from mpamatch.experiments.protocol import Cell
from mpamatch.experiments.runner import Ready


def by_seconds(experiment: Experiment, out: Path) -> Ready[Cell]:
    """For the runner: a cell as planned, or with as many steps as another arm's seconds hold at its own pace.

    None while those arms still run; the reason when they failed. Steps that were once measured stay.
    """

    def ready(cell: Cell, done: Sequence[Cell], failed: Sequence[Cell]) -> Cell | str | None:
        arm = experiment.arm(cell.arm)
        if arm.seconds_of is None or arm.pace_of is None:
            return cell
        if (out / cell.place / CELL_PLAN).is_file():
            return cell.with_steps(read_plan(out / cell.place, Cell).recipe.steps_cold)
        for need in (arm.seconds_of, arm.pace_of):
            if any(_is_sibling(one, cell, need) for one in failed):
                return f"{need} of seed {cell.seed} failed: its seconds are not known"
            if not any(_is_sibling(one, cell, need) for one in done):
                return None
        seconds = _result(cell, out, arm.seconds_of)["seconds"]
        pace = _result(cell, out, arm.pace_of)["seconds_per_step"]
        return cell.with_steps(max(1, round(seconds / pace)))

    return ready


def _is_sibling(one: Cell, cell: Cell, arm: str) -> bool:
    return one.arm == arm and (one.seed, one.fold) == (cell.seed, cell.fold)


def _result(cell: Cell, out: Path, arm: str) -> dict[str, Any]:
    place = Path("cells") / arm / Path(*cell.place.parts[2:])
    return dict(json.loads((out / place / CELL_RESULT).read_text(encoding="utf-8")))
