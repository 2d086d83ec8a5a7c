"""The runner with children that only pretend to train: what it starts, in which order, and what it says of failures."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mpamatch.cli import lifetime
from mpamatch.domain.recipe import Recipe
from mpamatch.errors import Cancelled, Conflict, NotWritten
from mpamatch.experiments import runner
from mpamatch.experiments.arms import Arm, Experiment
from mpamatch.experiments.equal_seconds import by_seconds
from mpamatch.experiments.plans import read_plan
from mpamatch.experiments.protocol import Cell
from mpamatch.experiments.runner import Progress, run_cells

EXPERIMENT = Experiment(
    "try",
    "?",
    (
        Arm("timed", "supervised", seconds_of="slow", pace_of="plain"),
        Arm("plain", "supervised"),
        Arm("slow", "fixmatch"),
    ),
    baseline="plain",
)
# Says that it took 10 s (slow: 40 s) for its steps.
TRAINS = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
plan = json.loads((folder / "plan.json").read_text())
seconds = 40.0 if plan["arm"] == "slow" else 10.0
steps = plan["recipe"]["steps_cold"]
row = {"seconds": seconds, "steps": steps, "seconds_per_step": seconds / steps}
(folder / "cell.json").write_text(json.dumps(row))
"""


def cell(arm: str, seed: int = 0, steps: int = 100) -> Cell:
    return Cell(
        arm=arm,
        seed=seed,
        fold=None,
        folds=0,
        dataset="phantom",
        root=Path("nowhere"),
        regime="few",
        labelled=2,
        recipe=Recipe(method=EXPERIMENT.arm(arm).method, steps_cold=steps),
        noise_words=0,
        start=None,
        threads=1,
        scored=True,
        keep_models=False,
    )


def run(out: Path, cells: Sequence[Cell], program: str = TRAINS, jobs: int = 2, **special: str) -> list[Progress]:
    """Run cells whose child is ``program``, or that of ``special`` by the cell's arm and seed, as slow_0."""
    told: list[Progress] = []

    def command(one: Cell, folder: Path) -> list[str]:
        return [sys.executable, "-c", special.get(f"{one.arm}_{one.seed}", program), str(folder)]

    run_cells(
        EXPERIMENT.name,
        cells,
        out,
        jobs=jobs,
        command=command,
        stop=lambda: False,
        tell=told.append,
        ready=by_seconds(EXPERIMENT, out),
    )
    return told


def error(out: Path, one: Cell) -> str:
    return str(json.loads((out / one.place / "error.json").read_text())["problem"])


def test_its_exit_codes_are_those_of_a_training() -> None:
    assert (runner.STOPPED, runner.NOT_WRITTEN) == (lifetime.STOPPED, lifetime.NOT_WRITTEN)


def test_every_cell_runs_once_and_a_second_call_finds_them_done(tmp_path: Path) -> None:
    cells = [cell(arm, seed) for seed in range(2) for arm in ("plain", "slow")]
    last = run(tmp_path, cells)[-1]
    assert (last.done, last.failed, last.cells) == (4, 0, 4)
    assert last.work == last.whole_work
    assert [read_plan(tmp_path / one.place, Cell) for one in cells] == cells
    assert run(tmp_path, cells, program="raise SystemExit(1)") == []


def test_an_arm_of_equal_seconds_waits_and_gets_the_steps_that_fit(tmp_path: Path) -> None:
    cells = [cell("timed"), cell("plain"), cell("slow")]
    run(tmp_path, cells)
    # 40 s at 10 s for 100 steps
    assert read_plan(tmp_path / cells[0].place, Cell).steps == 400
    (tmp_path / cells[0].place / "cell.json").unlink()
    (tmp_path / cells[2].place / "cell.json").write_text(json.dumps({"seconds": 80.0, "seconds_per_step": 0.1}))
    run(tmp_path, cells)
    assert read_plan(tmp_path / cells[0].place, Cell).steps == 400, "steps once measured stay"


def test_a_failed_cell_leaves_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    cells = [cell("timed"), cell("plain"), cell("slow"), cell("slow", seed=1)]
    last = run(tmp_path, cells, slow_0="raise ValueError('no such tissue')")[-1]
    assert (last.done, last.failed) == (2, 2)
    assert error(tmp_path, cells[2]) == "exit code 1: ValueError: no such tissue"
    assert error(tmp_path, cells[0]) == "slow of seed 0 failed: its seconds are not known"
    again = run(tmp_path, cells)[-1]
    assert (again.done, again.failed) == (4, 0)
    assert not (tmp_path / cells[2].place / "error.json").exists()


def test_a_cell_that_was_killed_is_told_from_one_that_was_stopped(tmp_path: Path) -> None:
    cells = [cell("plain"), cell("slow")]
    run(
        tmp_path,
        cells,
        plain_0="import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        slow_0=f"raise SystemExit({lifetime.STOPPED})",
    )
    assert "signal 9" in error(tmp_path, cells[0])
    assert "stopped by somebody else" in error(tmp_path, cells[1])


def test_a_full_disk_ends_all_of_it(tmp_path: Path) -> None:
    with pytest.raises(NotWritten, match="free disk space"):
        run(tmp_path, [cell("plain"), cell("slow")], program=f"raise SystemExit({lifetime.NOT_WRITTEN})", jobs=1)


def test_a_stop_reaches_every_child_before_it_is_told(tmp_path: Path) -> None:
    waits = """
import pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def end(number, frame):
    (folder / "asked").touch()
    raise SystemExit(75)
signal.signal(signal.SIGTERM, end)
(folder / "ready").touch()
time.sleep(60)
"""
    cells = [cell("plain"), cell("slow"), cell("plain", seed=1)]

    def stop() -> bool:
        return all((tmp_path / one.place / "ready").exists() for one in cells[:2])

    def command(one: Cell, folder: Path) -> list[str]:
        return [sys.executable, "-c", waits, str(folder)]

    with pytest.raises(Cancelled, match="0 of 3 cells are done; the same command goes on"):
        run_cells(EXPERIMENT.name, cells, tmp_path, jobs=2, command=command, stop=stop)
    assert [(tmp_path / one.place / "asked").exists() for one in cells] == [True, True, False]


@pytest.mark.parametrize("ends", ["raise SystemExit(75)", "import os; os.kill(os.getpid(), 15)"])
def test_a_signal_that_reaches_the_children_first_is_no_failure(tmp_path: Path, ends: str) -> None:
    """`pkill` and a service's manager send SIGTERM to every process, and this one may be the last to hear it."""
    cells = [cell("plain"), cell("slow")]
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += (tmp_path / cells[0].place / "ended").exists()
        return asked > 1

    def command(one: Cell, folder: Path) -> list[str]:
        return [
            sys.executable,
            "-c",
            f"import pathlib, sys; pathlib.Path(sys.argv[1], 'ended').touch(); {ends}",
            str(folder),
        ]

    with pytest.raises(Cancelled):
        run_cells(EXPERIMENT.name, cells, tmp_path, jobs=1, command=command, stop=stop)
    assert not list(tmp_path.rglob("error.json"))
    assert not (tmp_path / cells[1].place).exists(), "nothing is begun after a stop"


def test_a_cell_that_was_done_when_the_stop_came_counts(tmp_path: Path) -> None:
    late = TRAINS + "\n(folder / 'written').touch()\nimport time; time.sleep(60)\n"
    one = cell("plain")
    with pytest.raises(Cancelled, match="1 of 2 cells are done"):
        run_cells(
            EXPERIMENT.name,
            [one, cell("slow")],
            tmp_path,
            jobs=1,
            command=lambda cell, folder: [sys.executable, "-c", late, str(folder)],
            stop=(tmp_path / one.place / "written").exists,
        )


def test_a_folder_of_another_protocol_is_left_alone(tmp_path: Path) -> None:
    run(tmp_path, [cell("plain")])
    with pytest.raises(Conflict, match="labelled 2, not 3"):
        run(tmp_path, [Cell.from_json({**cell("plain").to_json(), "labelled": 3})])
    other = Recipe(method="supervised", steps_cold=100, tau=0.9).to_json()
    with pytest.raises(Conflict, match="tau"):
        run(tmp_path, [Cell.from_json({**cell("plain").to_json(), "recipe": other})])
