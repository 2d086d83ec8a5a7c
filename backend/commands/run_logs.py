"""What a run has said: its events, its progress and the end of its training's own log, as lines for people."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from backend.commands.opened import Opened
from backend.store import runs
from backend.store.tables import Event, Run

LOOK_S = 0.5


@dataclass(frozen=True)
class Line:
    """One thing that was said, by whom (``event``, ``train`` or ``log``), and when, where that is known."""

    source: str
    text: str
    at: datetime | None = None

    def __str__(self) -> str:
        when = "" if self.at is None else f"{self.at:%Y-%m-%d %H:%M:%SZ} "
        return f"{self.source:5} | {when}{self.text}"


class RunLog:
    """Reads what is new of a run's three sources, each from where it stopped."""

    def __init__(self, here: Opened, run: Run) -> None:
        self._here, self._run_id = here, run.id
        self._folder = runs.folder(here.settings.state, run)
        self._last_event = 0
        self._read: dict[Path, int] = {}

    def news(self) -> list[Line]:
        """What was said since the last look: events first, then the training's lines, each in order."""
        progress = [_progress_line(text) for text in self._new_lines(self._folder / "progress.jsonl")]
        log = [Line("log", text) for text in self._new_lines(self._folder / "train.log") if text.strip()]
        return [*self._events(), *progress, *log]

    def open(self) -> bool:
        with self._here.database.transaction() as session:
            return session.get_one(Run, self._run_id).state in runs.OPEN

    def _events(self) -> list[Line]:
        with self._here.database.transaction() as session:
            rows = session.scalars(
                select(Event)
                .where(Event.subject == f"run:{self._run_id}", Event.id > self._last_event)
                .order_by(Event.id)
            ).all()
            problem = session.get_one(Run, self._run_id).problem
        self._last_event = max((row.id for row in rows), default=self._last_event)
        return [_event_line(row, problem) for row in rows]

    def _new_lines(self, path: Path) -> list[str]:
        """Whole lines only: the last one may still be being written."""
        try:
            with open(path, "rb") as file:
                file.seek(self._read.get(path, 0))
                whole, newline, _ = file.read().rpartition(b"\n")
        except FileNotFoundError:
            return []
        self._read[path] = self._read.get(path, 0) + len(whole) + len(newline)
        return whole.decode("utf-8", "replace").splitlines()


def last_lines(lines: list[Line], count: int) -> list[Line]:
    """The last ones of each source, so that many steps do not push out the events; 0 is all."""
    if count == 0:
        return lines
    kept: list[Line] = []
    for source in ("event", "train", "log"):
        kept += [line for line in lines if line.source == source][-count:]
    return kept


def follow_log(log: RunLog, say: Callable[[Line], None]) -> None:
    """Say what comes until the run has ended and everything is said."""
    goes_on = True
    while goes_on:
        goes_on = log.open()  # asked before the last look, so that nothing said meanwhile is missed
        for line in log.news():
            say(line)
        if goes_on:
            time.sleep(LOOK_S)


def as_rows(lines: list[Line]) -> list[dict[str, Any]]:
    return [asdict(line) for line in lines]


def _event_line(row: Event, problem: str | None) -> Line:
    after = row.after or {}
    said = [f"{row.what} ({row.actor})"]
    said += [f"{name} {value}" for name, value in after.items() if name not in ("state", "attempt", "reasons")]
    said += [str(reason) for reason in after.get("reasons", ())]
    if row.what == "run failed" and problem:
        said.append(problem)
    return Line("event", "; ".join(said), row.at)


def _progress_line(text: str) -> Line:
    try:
        event = json.loads(text)
    except ValueError:
        return Line("train", text)
    name = event.pop("event", "")
    if name == "step":
        losses = " ".join(f"{k} {v:.4f}" for k, v in (event.get("losses") or {}).items() if v is not None)
        sure = event.get("mask_ratio")
        confident = "" if sure is None else f", {100 * sure:.0f} % of the pool confident"
        left = event.get("eta_s")
        rest = "" if left is None else f", {left:.0f} s left"
        learns = f": loss {losses}{confident}" if losses else ""
        return Line("train", f"step {event['step']}/{event['steps']}{learns}{rest}")
    notes = event.pop("notes", None) or []
    plain = [f"{k} {v}" for k, v in event.items() if isinstance(v, str | int | float) and not isinstance(v, bool)]
    return Line("train", "; ".join([f"{name}: {', '.join(plain)}", *map(str, notes)]))
