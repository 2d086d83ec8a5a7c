"""How every project stands, in figures for machines: counts, ages and the latest audit score, read in a few queries.

What `/metrics`, `mpamatch status` and the alert rules speak of comes from here, so that they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from mpamatch.domain.policy import Policy

_INBOX = text(
    """
    SELECT p.id, (SELECT count(*) FROM inbox i WHERE i.project_id = p.id),
           w.waiting, w.oldest,
           (SELECT count(*) FROM inbox i WHERE i.project_id = p.id AND i.problem IS NOT NULL)
    FROM project p, LATERAL (SELECT count(*) AS waiting, min(received_at) AS oldest FROM inbox i
                             WHERE i.project_id = p.id AND i.applied_at IS NULL) w
    """
)
_QUEUE = text(
    """
    SELECT p.id, e.state, count(*) FROM project p
    JOIN queue_entry e ON e.project_id = p.id AND e.generation = p.queue_generation
    GROUP BY 1, 2
    """
)
_TASKS = text("SELECT project_id, state, count(*) FROM task GROUP BY 1, 2")
_IMAGES = text("SELECT project_id, state, count(*) FROM image GROUP BY 1, 2")
_ANNOTATIONS = text("SELECT project_id, state, count(*) FROM annotation GROUP BY 1, 2")
_RUNS = text("SELECT project_id, state, count(*) FROM run GROUP BY 1, 2")
_PREDICTIONS = text(
    """
    SELECT p.id, count(*) FILTER (WHERE q.model_id = p.champion_id), count(*)
    FROM project p JOIN model m ON m.project_id = p.id JOIN prediction q ON q.model_id = m.id
    GROUP BY 1
    """
)
_DUE = text(
    """
    SELECT p.id, count(*) FROM project p
    JOIN tile t ON t.project_id = p.id
    JOIN image i ON i.id = t.image_id AND i.state = 'ready'
    WHERE p.champion_id IS NOT NULL AND (t.state = 'ready' OR coalesce(t.split, i.split) = 'train')
      AND NOT EXISTS (SELECT 1 FROM prediction q WHERE q.tile_id = t.id AND q.model_id = p.champion_id)
    GROUP BY 1
    """
)
_CHAMPIONS = text(
    """
    SELECT p.id, p.key, m.version, m.kind, m.provisional, coalesce(m.promoted_at, m.created_at) AS since, m.verdict,
           p.policy, p.ls_project_id IS NOT NULL AS tied
    FROM project p LEFT JOIN model m ON m.id = p.champion_id ORDER BY p.id
    """
)
_OPEN_RUNS = text(
    """
    SELECT project_id, number, state, created_at, heartbeat_at, progress
    FROM run WHERE state IN ('queued', 'training', 'judging')
    """
)


@dataclass(frozen=True)
class OpenRun:
    """The run of a project that is not over. ``heartbeat_at``: the last sign of life of its training."""

    number: int
    state: str
    created_at: datetime
    heartbeat_at: datetime | None
    step: int | None
    steps: int | None


@dataclass(frozen=True)
class ProjectFigures:
    """One project. Maps are counts by state. ``audit_dice``: 0..1, of the champion at its verdict; None before one.

    ``predicted`` and ``due`` count tiles that the champion has, and has not, seen; ``predictions`` counts those of
    all models.
    """

    project_id: int
    key: str
    champion: str | None
    champion_kind: str | None
    provisional: bool
    champion_since: datetime | None
    audit_dice: float | None
    head_size: int
    tied: bool
    inbox_received: int = 0
    inbox_waiting: int = 0
    inbox_oldest_at: datetime | None = None
    inbox_problems: int = 0
    predictions: int = 0
    predicted: int = 0
    due: int = 0
    queue: Mapping[str, int] = field(default_factory=dict)
    tasks: Mapping[str, int] = field(default_factory=dict)
    images: Mapping[str, int] = field(default_factory=dict)
    annotations: Mapping[str, int] = field(default_factory=dict)
    runs: Mapping[str, int] = field(default_factory=dict)
    open_run: OpenRun | None = None


def measure(session: Session) -> tuple[ProjectFigures, ...]:
    """Every project, by id; in one transaction, so that the figures belong together."""
    counted = {
        name: _by_state(session, query)
        for name, query in (
            ("queue", _QUEUE),
            ("tasks", _TASKS),
            ("images", _IMAGES),
            ("annotations", _ANNOTATIONS),
            ("runs", _RUNS),
        )
    }
    inbox = {row[0]: row for row in session.execute(_INBOX)}
    predictions = {row[0]: row for row in session.execute(_PREDICTIONS)}
    due = {row[0]: row[1] for row in session.execute(_DUE)}
    open_runs = {row[0]: _open_run(row) for row in session.execute(_OPEN_RUNS)}
    found = []
    for row in session.execute(_CHAMPIONS):
        _, received, waiting, oldest, problems = inbox[row.id]
        _, predicted, made = predictions.get(row.id, (row.id, 0, 0))
        found.append(
            ProjectFigures(
                project_id=row.id,
                key=row.key,
                champion=row.version,
                champion_kind=row.kind,
                provisional=bool(row.provisional),
                champion_since=row.since,
                audit_dice=_audit_dice(row.verdict),
                head_size=Policy.from_json(row.policy).head_size,
                tied=row.tied,
                inbox_received=received,
                inbox_waiting=waiting,
                inbox_oldest_at=oldest,
                inbox_problems=problems,
                predictions=made,
                predicted=predicted,
                due=due.get(row.id, 0),
                open_run=open_runs.get(row.id),
                **{name: of.get(row.id, {}) for name, of in counted.items()},
            )
        )
    return tuple(found)


def _by_state(session: Session, query: Any) -> dict[int, dict[str, int]]:
    found: dict[int, dict[str, int]] = {}
    for project_id, state, count in session.execute(query):
        found.setdefault(project_id, {})[state] = count
    return found


def _open_run(row: Row[Any]) -> OpenRun:
    progress = row.progress or {}
    return OpenRun(
        number=row.number,
        state=row.state,
        created_at=row.created_at,
        heartbeat_at=row.heartbeat_at,
        step=progress.get("step"),
        steps=progress.get("steps"),
    )


def _audit_dice(verdict: Any) -> float | None:
    found = (verdict or {}).get("figures", {}).get("candidate_dice")
    return None if found is None else float(found)
