"""Runs: one open per project, held by a lease, moved only by the holder of the newest attempt."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.orm import Session

from backend.store import events
from backend.store.tables import Run
from mpamatch.domain.states import check_move
from mpamatch.errors import Conflict, NotFound

OPEN = ("queued", "training", "judging")
ADAPT = "adapt"
"""The trigger of runs that adapt the champion's norms and learn no label."""


def open_run(session: Session, project_id: int) -> Run | None:
    return session.scalars(select(Run).where(Run.project_id == project_id, Run.state.in_(OPEN))).one_or_none()


def latest(session: Session, project_id: int) -> Run | None:
    return session.scalars(
        select(Run).where(Run.project_id == project_id).order_by(Run.id.desc()).limit(1)
    ).one_or_none()


def first_after(session: Session, project_id: int, run_id: int, *, adapts: bool) -> Run | None:
    """The first run after one, of those that adapt or of those that train: both may be asked for at once."""
    kind = Run.trigger == ADAPT if adapts else Run.trigger != ADAPT
    query = select(Run).where(Run.project_id == project_id, Run.id > run_id, kind).order_by(Run.id).limit(1)
    return session.scalars(query).one_or_none()


def latest_training(session: Session, project_id: int) -> Run | None:
    """The latest run that was to learn labels."""
    return session.scalars(
        select(Run).where(Run.project_id == project_id, Run.trigger != ADAPT).order_by(Run.id.desc()).limit(1)
    ).one_or_none()


def without_model_in_row(session: Session, project_id: int) -> int:
    """How many trainings ended without a model since the last one that was done."""
    trainings = (Run.project_id == project_id, Run.trigger != ADAPT)
    done = select(func.max(Run.id)).where(*trainings, Run.state == "done").scalar_subquery()
    query = select(func.count()).where(
        *trainings, Run.state.in_(("failed", "cancelled")), Run.id > func.coalesce(done, 0)
    )
    return session.scalar(query) or 0


def folder(state: Path, run: Run) -> Path:
    """Where a run works under the state folder: its snapshot, progress, log, checkpoint and model."""
    return state / "runs" / f"{run.version}-r{run.id}"


def by_number(session: Session, project_id: int, number: int) -> Run:
    """Raises NotFound."""
    run = session.scalars(select(Run).where(Run.project_id == project_id, Run.number == number)).one_or_none()
    if run is None:
        raise NotFound(f"run {number}", "does not exist", "see `mpamatch runs list`")
    return run


def claim_training(session: Session, *, now: datetime, holder: str, lease_s: float) -> Run | None:
    """Take the oldest run that waits, or whose holder has gone silent; the higher attempt fences that one off."""
    run = session.scalars(
        select(Run)
        .where(
            or_(Run.state == "queued", Run.state == "training"),
            or_(Run.lease_until.is_(None), Run.lease_until < now),
            Run.cancel_requested.is_(False),
        )
        .order_by(Run.id)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if run is None:
        return None
    if run.state == "queued":
        move(session, run, "training", actor=holder)
    else:
        run.crashes += 1  # its holder went silent; a clean stop goes back to the queue instead
    run.attempt += 1
    run.lease_holder = holder
    run.lease_until = now + timedelta(seconds=lease_s)
    run.heartbeat_at = now
    run.started_at = run.started_at or now
    return run


def heartbeat(
    session: Session, run_id: int, *, attempt: int, now: datetime, lease_s: float, progress: dict[str, Any] | None
) -> bool:
    """Renew the lease and store progress; True when asked to stop. Raises Conflict when it is not ours."""
    values: dict[str, Any] = {"heartbeat_at": now, "lease_until": now + timedelta(seconds=lease_s)}
    if progress is not None:
        values["progress"] = progress
    cancelled = session.scalar(
        update(Run)
        .where(Run.id == run_id, Run.attempt == attempt, Run.state == "training")
        .values(**values)
        .returning(Run.cancel_requested)
    )
    if cancelled is None:
        raise Conflict(f"run {run_id}", "is held by a newer attempt", "nothing to do: that one goes on")
    return bool(cancelled)


def cancel_wanted(session: Session, run_id: int) -> bool:
    """Whether a person asked for its end; cheap enough to be asked every second."""
    return bool(session.scalar(select(Run.cancel_requested).where(Run.id == run_id)))


def release_dead(session: Session, *, now: datetime, alive: Callable[[str], bool]) -> int:
    """End the leases of holders that are known to be dead, so that nobody waits for them to expire."""
    training = session.scalars(
        select(Run).where(Run.state == "training", Run.lease_until > now).with_for_update(skip_locked=True)
    ).all()
    dead = [run for run in training if run.lease_holder is not None and not alive(run.lease_holder)]
    for run in dead:
        run.lease_until = now
    return len(dead)


def end_cancelled(session: Session, *, now: datetime) -> int:
    """End the runs that a person cancelled and that nobody carries any more: their worker died or was stopped."""
    left = session.scalars(
        select(Run)
        .where(
            Run.state.in_(("queued", "training")),
            Run.cancel_requested.is_(True),
            or_(Run.lease_until.is_(None), Run.lease_until <= now),
        )
        .with_for_update(skip_locked=True)
    ).all()
    for run in left:
        move(session, run, "cancelled", actor="sweep", finished_at=now, lease_until=None)
    return len(left)


def due(session: Session, *, now: datetime) -> int:
    """How many runs wait for a worker, or have one that has gone silent."""
    query = select(func.count(Run.id)).where(
        or_(Run.state == "queued", Run.state == "training"),
        or_(Run.lease_until.is_(None), Run.lease_until < now),
        Run.cancel_requested.is_(False),
    )
    return session.scalar(query) or 0


def held(session: Session, run_id: int, attempt: int) -> Run:
    """The run, locked, if this attempt still holds it. Raises Conflict."""
    run = session.scalars(select(Run).where(Run.id == run_id).with_for_update()).one()
    if run.attempt != attempt or run.state != "training":
        raise Conflict(f"run {run_id}", "is held by a newer attempt", "nothing to do: that one goes on")
    return run


def move(session: Session, run: Run, state: str, *, actor: str, **values: Any) -> None:
    """One allowed move with its event. Raises Conflict."""
    check_move("run", run.state, state)
    before = run.state
    run.state = state
    for name, value in values.items():
        setattr(run, name, value)
    events.record(
        session,
        project_id=run.project_id,
        actor=actor,
        what=f"run {state}",
        subject=f"run:{run.id}",
        before={"state": before},
        after={"state": state, "attempt": run.attempt},
    )
