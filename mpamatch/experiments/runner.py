"""Runs cells as child processes, several at once, and finds what earlier starts finished. No torch here.

A cell's folder says how it stands: ``cell.json`` when it is done, ``error.json`` when it failed, else it is to run
and goes on from its checkpoint. Children sit in sessions of their own: Ctrl-C reaches this process alone, which then
asks each of them to stop.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

from mpamatch.errors import Cancelled, Conflict, NotWritten
from mpamatch.experiments.plans import CELL_ERROR, CELL_LOG, CELL_PLAN, CELL_RESULT, CellPlan, Plan, read_plan
from mpamatch.files.whole_files import write_whole
from mpamatch.training.run_files import PROGRESS_NAME

Command = Callable[[CellPlan, Path], Sequence[str]]
"""A cell and its folder -> the command that runs it."""

Ready = Callable[[Plan, Sequence[Plan], Sequence[Plan]], Plan | str | None]
"""A cell, those that are done and those that failed -> the cell as it is to run; None while it has to wait for another;
why it never will run."""

STOPPED, NOT_WRITTEN = 75, 74
"""Exit codes of a child that was stopped, and of one whose disk took no more; see mpamatch.cli.lifetime."""
_ASKED = (STOPPED, -signal.SIGTERM, -signal.SIGINT)
"""How a child ends that a signal reached, early or late."""

_LOOK_S = 0.2
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
class _Board(Generic[Plan]):
    """Where each cell stands. ``waiting`` keeps the order of the plan."""

    waiting: list[Plan]
    running: dict[Plan, subprocess.Popen[bytes]] = field(default_factory=dict)
    done: list[Plan] = field(default_factory=list)
    failed: list[Plan] = field(default_factory=list)


def at_once(cell: Plan, done: Sequence[Plan], failed: Sequence[Plan]) -> Plan | str | None:
    """The rule of cells that need no other."""
    return cell


def run_cells(
    name: str,
    cells: Sequence[Plan],
    out: Path,
    *,
    jobs: int,
    command: Command,
    stop: Callable[[], bool],
    tell: Callable[[Progress], None] = lambda progress: None,
    ready: Ready[Plan] = at_once,
) -> None:
    """Bring every cell of what is called ``name`` to its end, ``jobs`` at once. A failed cell leaves its reason and the
    rest goes on.

    Cells that failed before are tried again. Raises Cancelled when ``stop`` says so, after every child has ended;
    Conflict when a folder holds the cell of another protocol; NotWritten when the disk takes no more.
    """
    board = _board(cells, out)
    try:
        while board.waiting or board.running:
            if stop():
                _end_running(board, out, stop)
                raise Cancelled(
                    name,
                    f"stopped: {len(board.done)} of {len(cells)} cells are done",
                    "the same command goes on from there",
                )
            _start_ready(board, out, jobs, command, ready)
            for cell, child in list(board.running.items()):
                if child.poll() is None or (child.returncode in _ASKED and _stops_too(stop)):
                    continue
                del board.running[cell]
                _note_end(cell, out / cell.place, child.returncode, board)
            tell(_progress(board, out))
            if board.running:
                time.sleep(_LOOK_S)
    finally:
        _end_running(board, out, stop)


def _stops_too(stop: Callable[[], bool]) -> bool:
    """Whether the signal that ended a child is for all: it may reach this process a moment after its children."""
    if not stop():
        time.sleep(_LOOK_S)
    return stop()


def _end_running(board: _Board[Plan], out: Path, stop: Callable[[], bool]) -> None:
    """Ask every child to end and wait until it has; those that were done in time count.

    ``stop`` is asked meanwhile, which tells its owner that this waits for children and is not stuck.
    """
    for child in board.running.values():
        child.terminate()
    while any(child.poll() is None for child in board.running.values()):
        stop()
        time.sleep(_LOOK_S)
    board.done += [cell for cell in board.running if (out / cell.place / CELL_RESULT).is_file()]
    board.running.clear()


def _board(cells: Sequence[Plan], out: Path) -> _Board[Plan]:
    board: _Board[Plan] = _Board(waiting=[])
    for cell in cells:
        folder = out / cell.place
        _check_same(cell, folder)
        if (folder / CELL_RESULT).is_file():
            board.done.append(cell)
        else:
            (folder / CELL_ERROR).unlink(missing_ok=True)
            board.waiting.append(cell)
    return board


def _check_same(cell: CellPlan, folder: Path) -> None:
    """The folder's cell is this one; where its plan is there already."""
    if not (folder / CELL_PLAN).is_file():
        return
    wanted, there = cell.comparable(), read_plan(folder, type(cell)).comparable()
    if different := sorted(name for name in wanted if wanted[name] != there[name]):
        name = different[0]
        problem = f"holds a cell with {name} {there[name]}, not {wanted[name]}"
        raise Conflict(str(folder), problem, "give another --out, or the options it was begun with")


def _start_ready(board: _Board[Plan], out: Path, jobs: int, command: Command, rule: Ready[Plan]) -> None:
    """Start the first cells that need nothing more; one that needs a failed one fails with it."""
    for cell in list(board.waiting):
        if len(board.running) >= jobs:
            return
        ready = rule(cell, board.done, board.failed)
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


def _note_end(cell: Plan, folder: Path, code: int, board: _Board[Plan]) -> None:
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


def _progress(board: _Board[Plan], out: Path) -> Progress:
    def cost(cell: CellPlan) -> float:
        return cell.steps * (_POOL_COST if cell.recipe.uses_pool else 1.0)

    ended = [*board.done, *board.failed]
    shares = {cell: _share(out / cell.place) for cell in board.running}
    return Progress(
        done=len(board.done),
        failed=len(board.failed),
        cells=len(ended) + len(board.waiting) + len(shares),
        work=sum(map(cost, ended)) + sum(cost(cell) * share for cell, share in shares.items()),
        whole_work=sum(map(cost, [*ended, *board.waiting, *shares])),
        running=tuple(cell.words for cell in shares),
    )


def _share(folder: Path) -> float:
    """How much of a running cell is behind it, by the last line of its progress."""
    path = folder / PROGRESS_NAME
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
    """The command of a cell: this interpreter with ``-m module FOLDER PARENT``, its threads set before torch is loaded.

    PARENT is this process, with which the child ends.
    """
    settings = (f"OMP_NUM_THREADS={threads}", "OMP_WAIT_POLICY=passive", "GOMP_SPINCOUNT=0")
    program, parent = (sys.executable, "-m", module), str(os.getpid())
    return lambda cell, folder: ["/usr/bin/env", *settings, *program, str(folder), parent]
