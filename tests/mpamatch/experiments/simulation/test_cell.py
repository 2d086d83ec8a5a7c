"""Small cells for real: two rounds on drawn tissue, whole, and stopped twice on the way."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpamatch.datasets import phantom
from mpamatch.domain.classes import IGNORE
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput, Cancelled
from mpamatch.experiments.plans import CELL_PLAN, CELL_RESULT
from mpamatch.experiments.simulation.cell import run_simulated_cell
from mpamatch.experiments.simulation.oracle import clicks_for
from mpamatch.experiments.simulation.plan import (
    START_MODEL,
    SimulatedCell,
    Simulation,
    division_of,
    place_of,
    plan_cells,
    start_tiles,
)
from mpamatch.files.rasters import decode_raster
from mpamatch.files.whole_files import write_whole

pytestmark = pytest.mark.torch

KNOBS = {
    "steps_cold": 6,
    "steps_warm": 3,
    "crop_px": 64,
    "patch_px": 64,
    "labelled_batch": 2,
    "unlabelled_batch": 2,
    "report_every": 1,
    "checkpoint_every": 1,
}
COSTS = ("training_s", "scoring_s", "peak_memory_mib")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tissue") / "drawn"
    phantom.write_folder(folder, tiles=6, groups=3, size_px=80)
    return folder


def cells_of(root: Path) -> dict[str, SimulatedCell]:
    simulation = Simulation(
        "phantom",
        root,
        "quick",
        ("mpamatch", "whole-tile-random"),
        rounds=2,
        seeds=1,
        encoder="tiny",
        labelled=1,
        budget_clicks=9.0,
        box_px=20,
        knobs=KNOBS,
    )
    return {cell.strategy: cell for cell in plan_cells(simulation, division_of("phantom", root))}


def run(cell: SimulatedCell, out: Path, stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
    folder = out / cell.place
    write_whole(folder / CELL_PLAN, json.dumps(cell.to_json()).encode())
    run_simulated_cell(folder, clock=time.monotonic, stop=stop)
    return dict(json.loads((folder / CELL_RESULT).read_text()))


def without_costs(result: dict[str, Any]) -> dict[str, Any]:
    rounds = [{k: v for k, v in row.items() if k not in COSTS} for row in result["rounds"]]
    return {**{k: v for k, v in result.items() if k not in COSTS}, "rounds": rounds}


@pytest.fixture(scope="module")
def out(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulation whose start is trained."""
    folder = tmp_path_factory.mktemp("out")
    run(cells_of(root)["start"], folder)
    return folder


@pytest.fixture(scope="module")
def whole(root: Path, out: Path) -> dict[str, Any]:
    """What the cell of `mpamatch` finds when nothing stops it."""
    return run(cells_of(root)["mpamatch"], out)


def test_a_start_costs_nothing_and_leaves_the_model_that_others_go_on_from(root: Path, out: Path) -> None:
    folder = out / place_of("start", 0)
    result = json.loads((folder / CELL_RESULT).read_text())
    (row,) = result["rounds"]
    assert (row["round"], row["clicks"], row["boxes"], row["steps"]) == (0, 0, 0, 6)
    division = division_of("phantom", root)
    (tile,) = start_tiles(cells_of(root)["start"], division)
    assert result["start"] == [division.train[tile].name]
    assert result["start_clicks"] == pytest.approx(clicks_for(division.data.read_mask(division.train[tile]), None))
    assert row["val"]["images"] == len(division.scored)
    assert row["pool"]["images"] == len(division.train) - 1
    assert (folder / START_MODEL).is_dir()
    assert not list(folder.glob("*/checkpoint"))


def test_rounds_are_paid_for_and_no_pixel_is_bought_twice(root: Path, out: Path, whole: dict[str, Any]) -> None:
    cell, division = cells_of(root)["mpamatch"], division_of("phantom", root)
    assert [row["round"] for row in whole["rounds"]] == [1, 2]
    bought = whole["bought"]
    assert bought
    for row in whole["rounds"]:
        until = [one for one in bought if one["round_number"] <= row["round"]]
        assert row["clicks"] == pytest.approx(sum(one["clicks"] for one in until))
        assert row["seconds"] == pytest.approx(sum(3 + 1.1 * one["clicks"] for one in until))
        assert row["clicks"] <= cell.budget_clicks * row["round"]
        assert (row["steps"], row["boxes"]) == (3, len(until))
        assert row["labelled_images"] == len({one["tile"] for one in until} | set(start_tiles(cell, division)))
    times = [np.zeros((80, 80), int) for _ in division.train]
    for tile in start_tiles(cell, division):
        times[tile] += 1
    for one in bought:
        x, y, width, height = one["box"]
        assert (width, height) == (20, 20)
        times[one["tile"]][y : y + height, x : x + width] += 1
        truth = division.data.read_mask(division.train[one["tile"]])
        assert one["clicks"] == pytest.approx(clicks_for(truth, Box(*one["box"])))
        assert one["image"] == division.train[one["tile"]].name
    assert max(int(one.max()) for one in times) == 1
    assert not list((out / cell.place).glob("*/model")), "only a start keeps its model"


def test_stopped_while_it_looked_and_while_it_trained_it_comes_to_the_same_figures(
    root: Path, out: Path, whole: dict[str, Any], tmp_path: Path
) -> None:
    cell, division = cells_of(root)["mpamatch"], division_of("phantom", root)
    shutil.copytree(out / place_of("start", 0), tmp_path / place_of("start", 0))
    folder = tmp_path / cell.place
    last = folder / "round-2"
    with pytest.raises(Cancelled, match="looked at"):
        run(cell, tmp_path, stop=last.is_dir)
    assert not (last / "bought.json").exists()
    progress = last / "progress.jsonl"
    with pytest.raises(Cancelled, match="stopped after step"):
        run(cell, tmp_path, stop=lambda: progress.is_file() and '"event": "step"' in progress.read_text())
    assert not (folder / CELL_RESULT).exists()
    # The round that is under way trains on the truth in what was bought, and on nothing else.
    bought = [one for one in whole["bought"] if one["tile"] not in start_tiles(cell, division)]
    tile = bought[0]["tile"]
    mask = decode_raster((last / "masks" / f"{tile}.png").read_bytes())
    known = np.zeros(mask.shape, bool)
    for one in bought:
        if one["tile"] == tile:
            x, y, width, height = one["box"]
            known[y : y + height, x : x + width] = True
    assert np.array_equal(mask != IGNORE, known)
    assert np.array_equal(mask[known], division.data.read_mask(division.train[tile])[known])
    assert without_costs(run(cell, tmp_path)) == without_costs(whole)
    steps = [json.loads(line)["step"] for line in (folder / "progress.jsonl").read_text().splitlines()]
    assert steps[-1] == cell.steps == 6


def test_whole_tiles_are_bought_in_one_order_and_what_a_round_leaves_the_next_may_spend(root: Path, out: Path) -> None:
    cell, division = cells_of(root)["whole-tile-random"], division_of("phantom", root)
    result = run(cell, out)
    for one in result["bought"]:
        assert one["box"] == [0, 0, 80, 80]
        assert one["tile"] not in start_tiles(cell, division)
        assert one["stratum"] == "exploration"
    last = result["rounds"][-1]
    assert last["clicks"] <= 18
    dearest = max(clicks_for(division.data.read_mask(item), None) for item in division.train)
    assert last["clicks"] > 18 - dearest


def test_without_its_start_a_cell_says_what_to_do(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such model"):
        run(cells_of(root)["mpamatch"], tmp_path)
