"""What happened in a project, as the log has it, in the words and numbers that a program may read.

The log holds more than that: whose token it was, files, reasons in free text. What is told is a closed list of fields,
row by row. Places in the log are its seals: they have no gaps and never go back, which ids of rows do not promise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.store import events, runs
from backend.store.tables import Event, Model, Project, Run

Kind = Literal["queue", "annotation", "run", "champion", "label-studio"]

# What is told, by the beginning of `what`, and which fields of `after` go along.
_TOLD: Final[tuple[tuple[str, Kind, tuple[str, ...]], ...]] = (
    ("queue ranked", "queue", ("entries", "model", "sunk")),
    ("entry ", "queue", ("tile",)),
    ("annotation ", "annotation", ("tile", "scope")),
    ("run ", "run", ("adapt",)),
    ("candidate rejected", "run", ()),
    ("champion changed", "champion", ("champion",)),
    ("model version moved", "label-studio", ("version", "tasks")),
)


@dataclass(frozen=True)
class Told:
    """One event: its place in the log, what it is about, and what happened."""

    place: int
    at: datetime
    kind: Kind
    what: str
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """How a project stands: what serves, which order is live, and the open run with how far it is."""

    champion: str | None
    generation: int
    run: Mapping[str, Any] | None


def newest_place(session: Session, project: Project) -> int:
    """The end of the log. What was committed since the last look gets its place first: nobody waits for a worker."""
    if events.any_unsealed(session, project.id):
        events.seal(session, project.id)
    return events.last_seal(session, project.id)


def told_after(session: Session, project: Project, place: int, *, limit: int) -> tuple[list[Told], int]:
    """The next events that are told, of at most ``limit`` rows, and the place up to which the log was read."""
    rows = session.scalars(
        select(Event)
        .where(Event.project_id == project.id, Event.seal_number > place)
        .order_by(Event.seal_number)
        .limit(limit)
    ).all()
    numbers = _numbers(session, rows)
    told = [one for row in rows if (one := _told(row, numbers)) is not None]
    return told, place if not rows else int(rows[-1].seal_number or place)


def standing(session: Session, project: Project) -> Standing:
    """As it is now."""
    run = runs.open_run(session, project.id)
    progress = {} if run is None else run.progress or {}
    keys = ("step", "steps", "eta_s")
    return Standing(
        champion=session.scalar(select(Model.version).where(Model.id == project.champion_id)),
        generation=project.queue_generation,
        run=None if run is None else {"number": run.number, "state": run.state, **{k: progress.get(k) for k in keys}},
    )


def _told(row: Event, numbers: Mapping[str, dict[str, Any]]) -> Told | None:
    for beginning, kind, fields in _TOLD:
        if row.what.startswith(beginning):
            after = row.after or {}
            about = {name: after[name] for name in fields if name in after}
            return Told(int(row.seal_number or 0), row.at, kind, row.what, about | numbers.get(row.subject, {}))
    return None


def _numbers(session: Session, rows: Sequence[Event]) -> dict[str, dict[str, Any]]:
    """By subject: the number under which people know what a row is about."""
    ids: dict[str, set[int]] = {"run": set(), "model": set(), "queue": set()}
    for row in rows:
        table, _, number = row.subject.partition(":")
        if table in ids and number.isdecimal():
            ids[table].add(int(number))
    found: dict[str, dict[str, Any]] = {f"queue:{n}": {"generation": n} for n in ids["queue"]}
    if ids["run"]:
        runs_told = session.execute(select(Run.id, Run.number).where(Run.id.in_(ids["run"])))
        found |= {f"run:{row.id}": {"run": row.number} for row in runs_told}
    if ids["model"]:
        models_told = session.execute(select(Model.id, Model.version).where(Model.id.in_(ids["model"])))
        found |= {f"model:{row.id}": {"model": row.version} for row in models_told}
    return found
