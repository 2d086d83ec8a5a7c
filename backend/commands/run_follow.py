"""Looking on while a run trains: a live bar on a terminal, a line now and then elsewhere, the verdict at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from backend.commands.opened import Opened
from backend.commands.run_table import losses_in_order
from backend.store import models, projects, runs
from backend.store.tables import Run
from mpamatch.errors import Conflict

LOOK_S = 0.5
SAY_EVERY_S = 10.0
INTERRUPTED = 130
ADAPTING = "adapting the champion's norms"
_DOING = {
    "queued": "waits for the train worker",
    "training": "training",
    "judging": "predicting the audit tiles for its verdict",
}


@dataclass(frozen=True)
class Look:
    """A run as it is at one moment."""

    number: int
    state: str
    progress: dict[str, Any]
    problem: str | None
    verdict: dict[str, Any] | None
    version: str
    adapts: bool

    @property
    def doing(self) -> str:
        """What goes on, with the run's number."""
        words = ADAPTING if self.adapts and self.state == "training" else _DOING.get(self.state, self.state)
        return f"run {self.number}: {words}"

    @property
    def words(self) -> str:
        """Steps, losses and the time that is left, in one line."""
        doing = self.doing
        if self.state != "training" or "step" not in self.progress:
            return doing
        losses, left = _losses(self.progress), _left(self.progress)
        notes = "".join(f"; {note}" for note in self.progress.get("notes") or ())
        return f"{doing}, step {self.progress['step']} of {self.progress['steps']}{losses}{left}{notes}"


def look(here: Opened, run_id: int) -> Look:
    with here.database.transaction() as session:
        run = session.get_one(Run, run_id)
        model = models.candidate_of(session, run_id)
        verdict = None if model is None else model.verdict
        adapts = run.trigger == runs.ADAPT
        return Look(run.number, run.state, run.progress or {}, run.problem, verdict, run.version, adapts)


def next_run(here: Opened, project_id: int, after_id: int, *, adapt: bool = False, to_stderr: bool = False) -> int:
    """The id of the run that is opened next; waits for it, and says so when that takes a while.

    ``adapt``: it was asked to adapt. Raises Conflict when that wish was dropped meanwhile.
    """
    console, began, said = Console(stderr=to_stderr), time.monotonic(), False
    with left_alone("the request stands; see `mpamatch runs list`"):
        while True:
            with here.database.transaction() as session:
                # Asked first: whoever takes the wish away opens the run in the same transaction, or never.
                wanted = not adapt or projects.get(session, project_id).requested_adaptation
                latest = runs.latest(session, project_id)
                found = runs.first_after(session, project_id, after_id, adapts=adapt)
            if found is not None:
                return found.id
            if not wanted:
                raise Conflict("adaptation", "can no longer be made", "ask again: the answer says why")
            if not said and time.monotonic() - began > 3:
                said = True
                busy = latest is not None and latest.state in runs.OPEN
                console.print(f"waiting for run {latest.number} to end" if busy and latest else "waiting for a worker")
            time.sleep(LOOK_S)


def follow(here: Opened, run_id: int, *, to_stderr: bool = False) -> Look:
    """Show a run until it has ended. Raises Conflict when it failed or was cancelled; exits with 130 on Ctrl-C."""
    console = Console(stderr=to_stderr)
    shown = _bar if console.is_terminal else _lines
    number = look(here, run_id).number
    comfort = f"run {number} goes on; `mpamatch runs show {number} --follow` looks again"
    with left_alone(comfort), shown(console) as tell:
        while (seen := look(here, run_id)).state in runs.OPEN:
            tell(seen)
            time.sleep(LOOK_S)
        tell(seen)
    if seen.state != "done":
        why = f"{seen.state}: {seen.problem}" if seen.problem else seen.state
        raise Conflict(f"run {number}", why, f"the champion is as before; see `mpamatch runs logs {number}`")
    console.print(f"run {number}: done; {_verdict_words(seen)}", markup=False, highlight=False, soft_wrap=True)
    return seen


def _verdict_words(seen: Look) -> str:
    if seen.verdict is None:
        return f"{seen.version} was not judged"
    word = "promoted" if seen.verdict["promote"] else "kept out"
    return f"{seen.version} {word}: {'; '.join(seen.verdict['reasons'])}"


@contextmanager
def left_alone(comfort: str) -> Iterator[None]:
    """Ctrl-C ends the looking on, and nothing else; it says so."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"\n{comfort}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _bar(console: Console) -> Iterator[Callable[[Look], None]]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, figures="")

        def tell(seen: Look) -> None:
            trains = seen.state == "training"
            figures = _losses(seen.progress) + (_left(seen.progress) if trains else "")
            bar.update(
                task,
                description=seen.doing,
                total=seen.progress.get("steps"),
                completed=seen.progress.get("step", 0),
                figures=figures.removeprefix(", "),
            )

        yield tell


@contextmanager
def _lines(console: Console) -> Iterator[Callable[[Look], None]]:
    said: dict[str, Any] = {"state": None, "step": None, "at": 0.0}

    def tell(seen: Look) -> None:
        now, step = time.monotonic(), seen.progress.get("step")
        first_figures = seen.state == "training" and said["step"] is None and step is not None
        news = step != said["step"] and now - said["at"] >= SAY_EVERY_S
        if seen.state == said["state"] and not news and not first_figures:
            return
        said.update(state=seen.state, step=step, at=now)
        if seen.state in runs.OPEN:
            console.print(seen.words, markup=False, highlight=False, soft_wrap=True)

    yield tell


def _losses(progress: dict[str, Any]) -> str:
    parts = [f"{name} {value:.3f}" for name, value in losses_in_order(progress.get("losses"))]
    return f", loss {' '.join(parts)}" if parts else ""


def _left(progress: dict[str, Any]) -> str:
    eta_s = progress.get("eta_s")
    return f", {eta_s:.0f} s left" if isinstance(eta_s, int | float) else ""
