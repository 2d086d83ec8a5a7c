"""Runs cells as child processes, several at once, and finds what earlier starts finished. No torch here.

A cell's folder says how it stands: ``cell.json`` when it is done, ``error.json`` when it failed, else it is to run
and goes on from its checkpoint. Children sit in sessions of their own: Ctrl-C reaches this process alone, which then
asks each of them to stop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpamatch.errors import Cancelled, Conflict, NotWritten
from mpamatch.experiments.arms import Experiment
from mpamatch.experiments.protocol import CELL_ERROR, CELL_LOG, CELL_PLAN, CELL_RESULT, Cell, read_cell
from mpamatch.files.whole_files import write_whole

Command = Callable[[Cell, Path], Sequence[str]]
"""A cell and its folder -> the command that runs it."""

STOPPED, NOT_WRITTEN = 75, 74
"""Exit codes of a child that was stopped, and of one whose disk took no more; see mpamatch.cli.lifetime."""

_LOOK_S = 0.2
_PROGRESS_NAME = "progress.jsonl"
_TAIL_BYTES = 4096
# A step that looks at the pool costs about twice one that does not; for the time that is left only.
_POOL_COST = 2.0


@dataclass(frozen=True)
class Progress:
    """How far all cells are: done and failed ones, and work in steps of a supervised run."""

    done: int
    failed: int
    cells: int
    work: float
    whole_work: float
    running: tuple[str, ...]


@dataclass
class _Board:
    """Where each cell stands. ``waiting`` keeps the order of the plan."""

    waiting: list[Cell]
    running: dict[Cell, subprocess.Popen[bytes]] = field(default_factory=dict)
    done: list[Cell] = field(default_factory=list)
    failed: list[Cell] = field(default_factory=list)


def run_cells(
    experiment: Experiment,
    cells: Sequence[Cell],
    out: Path,
    *,
    jobs: int,
    command: Command,
    stop: Callable[[], bool],
    tell: Callable[[Progress], None] = lambda progress: None,
) -> None:
    """Bring every cell to its end, ``jobs`` at once. A failed cell leaves its reason and the rest goes on.

    Cells that failed before are tried again. Raises Cancelled when ``stop`` says so, after every child has ended;
    Conflict when a folder holds the cell of another protocol; NotWritten when the disk takes no more.
    """
    board = _board(cells, out)
    try:
        while board.waiting or board.running:
            if stop():
                raise Cancelled(
                    experiment.name,
                    f"stopped: {len(board.done)} of {len(cells)} cells are done",
                    "the same command goes on from there",
                )
            _start_ready(experiment, board, out, jobs, command)
            for cell, child in list(board.running.items()):
                if child.poll() is not None:
                    del board.running[cell]
                    _note_end(cell, out / cell.place, child.returncode, board)
            tell(_progress(board, out))
            if board.running:
                time.sleep(_LOOK_S)
    finally:
        for child in board.running.values():
            child.terminate()
        for child in board.running.values():
            child.wait()


def _board(cells: Sequence[Cell], out: Path) -> _Board:
    board = _Board(waiting=[])
    for cell in cells:
        folder = out / cell.place
        _check_same(cell, folder)
        if (folder / CELL_RESULT).is_file():
            board.done.append(cell)
        else:
            (folder / CELL_ERROR).unlink(missing_ok=True)
            board.waiting.append(cell)
    return board


def _check_same(cell: Cell, folder: Path) -> None:
    """The folder's cell is this one; where its plan is there already. Its steps may have been measured."""
    if not (folder / CELL_PLAN).is_file():
        return
    found = read_cell(folder)
    wanted, there = (_comparable(one) for one in (cell, found.with_steps(cell.recipe.steps_cold)))
    if different := sorted(name for name in wanted if wanted[name] != there[name]):
        name = different[0]
        problem = f"holds a cell with {name} {there[name]}, not {wanted[name]}"
        raise Conflict(str(folder), problem, "give another --out, or the options it was begun with")


def _comparable(cell: Cell) -> dict[str, Any]:
    values = cell.to_json()
    del values["keep_models"], values["root"], values["weights_dir"]
    return {**values.pop("recipe"), **values}


def _start_ready(experiment: Experiment, board: _Board, out: Path, jobs: int, command: Command) -> None:
    """Start the first cells that need nothing more; one whose reference failed fails with it."""
    for cell in list(board.waiting):
        if len(board.running) >= jobs:
            return
        ready = _with_seconds(experiment, cell, board, out)
        if ready is None:
            continue
        board.waiting.remove(cell)
        folder = out / cell.place
        if isinstance(ready, str):
            write_reason(folder, ready)
            board.failed.append(cell)
            continue
        write_whole(folder / CELL_PLAN, (json.dumps(ready.to_json(), indent=1) + "\n").encode())
        with (folder / CELL_LOG).open("ab") as log:
            child = subprocess.Popen(
                list(command(ready, folder)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        board.running[cell] = child


def _with_seconds(experiment: Experiment, cell: Cell, board: _Board, out: Path) -> Cell | str | None:
    """The cell as it is to run: as planned, or with as many steps as another arm's seconds hold at its own pace.

    None while those arms still run; the reason when they failed. Steps that were once measured stay.
    """
    arm = experiment.arm(cell.arm)
    if arm.seconds_of is None or arm.pace_of is None:
        return cell
    if (out / cell.place / CELL_PLAN).is_file():
        return cell.with_steps(read_cell(out / cell.place).recipe.steps_cold)
    for need in (arm.seconds_of, arm.pace_of):
        if any(_is_sibling(one, cell, need) for one in board.failed):
            return f"{need} of seed {cell.seed} failed: its seconds are not known"
        if not any(_is_sibling(one, cell, need) for one in board.done):
            return None
    seconds = _result(cell, out, arm.seconds_of)["seconds"]
    pace = _result(cell, out, arm.pace_of)["seconds_per_step"]
    return cell.with_steps(max(1, round(seconds / pace)))


def _is_sibling(one: Cell, cell: Cell, arm: str) -> bool:
    return one.arm == arm and (one.seed, one.fold) == (cell.seed, cell.fold)


def _result(cell: Cell, out: Path, arm: str) -> dict[str, Any]:
    name = CELL_RESULT
    place = Path("cells") / arm / Path(*cell.place.parts[2:])
    return dict(json.loads((out / place / name).read_text(encoding="utf-8")))


def _note_end(cell: Cell, folder: Path, code: int, board: _Board) -> None:
    if code == 0 and (folder / CELL_RESULT).is_file():
        board.done.append(cell)
        return
    if code == NOT_WRITTEN:
        raise NotWritten(str(folder), "the disk takes no more", "free disk space; the same command goes on from there")
    if not (folder / CELL_ERROR).is_file():
        write_reason(folder, _why(folder, code))
    board.failed.append(cell)


def _why(folder: Path, code: int) -> str:
    if code == STOPPED:
        return "was stopped by somebody else; the same command goes on from its checkpoint"
    if code < 0:
        return f"was ended by signal {-code}" + (" (too little memory?)" if code == -9 else "")
    lines = (folder / CELL_LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"exit code {code}: {lines[-1] if lines else 'it said nothing'}"


def write_reason(folder: Path, problem: str, kind: str = "Unavailable") -> None:
    """Leave behind why a cell failed, where the cell could not say so itself."""
    row = {"kind": kind, "item": "cell", "problem": problem, "remedy": ""}
    write_whole(folder / CELL_ERROR, (json.dumps(row) + "\n").encode())


def _progress(board: _Board, out: Path) -> Progress:
    def cost(cell: Cell) -> float:
        return cell.steps * (_POOL_COST if cell.recipe.uses_pool else 1.0)

    ended = [*board.done, *board.failed]
    shares = {cell: _share(out / cell.place) for cell in board.running}
    return Progress(
        done=len(board.done),
        failed=len(board.failed),
        cells=len(ended) + len(board.waiting) + len(shares),
        work=sum(map(cost, ended)) + sum(cost(cell) * share for cell, share in shares.items()),
        whole_work=sum(map(cost, [*ended, *board.waiting, *shares])),
        running=tuple(f"{cell.arm} seed {cell.seed}" for cell in shares),
    )


def _share(folder: Path) -> float:
    """How much of a running cell is behind it, by the last line of its progress."""
    path = folder / _PROGRESS_NAME
    if not path.is_file():
        return 0.0
    with path.open("rb") as lines:
        lines.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        tail = lines.read().decode(errors="replace").splitlines()
    for line in reversed(tail):
        try:
            row: Mapping[str, Any] = json.loads(line)
        except ValueError:
            continue  # cut by the tail, or half written
        if "step" in row and "steps" in row:
            return float(row["step"]) / float(row["steps"])
    return 0.0


def threads_of(jobs: int) -> int:
    """The share of the cores that each of ``jobs`` cells gets, at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // jobs)


def child_command(threads: int, module: str) -> Command:
    """The command of a cell: this interpreter with ``-m module FOLDER``, its threads set before torch is loaded."""
    settings = (f"OMP_NUM_THREADS={threads}", "OMP_WAIT_POLICY=passive", "GOMP_SPINCOUNT=0")
    return lambda cell, folder: ["/usr/bin/env", *settings, sys.executable, "-m", module, str(folder)]
