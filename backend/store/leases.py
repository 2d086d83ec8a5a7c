"""Entries of the queue that a person holds for a while: claimed, renewed, given back, left out.

``attempt`` is the fencing token of an entry: each claim raises it, so that one whose lease ran out cannot renew, give
back or skip what somebody else holds by now. What Label Studio shows is leased to it without an end and never handed
out here; a lease that a person holds keeps its tile out of Label Studio.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from backend.store import events
from backend.store.tables import Image, Project, QueueEntry, Tile
from mpamatch.domain.states import check_move
from mpamatch.errors import Conflict

_ORDER_LOCK: Final = 7_213_005


def hold_order(session: Session, project_id: int, *, to_change: bool = False) -> int:
    """Keep the live generation from changing until this transaction ends; returns its number.

    Claims share this hold. Who writes the next generation takes it alone, and only for the moment of the flip, so that
    no lease is given in an order that is just being replaced.
    """
    lock = func.pg_advisory_xact_lock if to_change else func.pg_advisory_xact_lock_shared
    session.execute(select(lock(_ORDER_LOCK, project_id)))
    return int(session.scalar(select(Project.queue_generation).where(Project.id == project_id)) or 0)


def claim(
    session: Session, project_id: int, *, holder: str, count: int, now: datetime, lease_s: float
) -> Sequence[QueueEntry]:
    """The best entries that nobody holds, leased to ``holder``. Callers at once never get the same one."""
    generation = hold_order(session, project_id)
    free = or_(QueueEntry.state == "open", and_(QueueEntry.state == "leased", QueueEntry.lease_until <= now))
    rows = session.scalars(
        select(QueueEntry)
        .join(Tile, Tile.id == QueueEntry.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .where(QueueEntry.project_id == project_id, QueueEntry.generation == generation, free, Image.state == "ready")
        .order_by(QueueEntry.rank)
        .limit(count)
        .with_for_update(of=QueueEntry, skip_locked=True)
        .execution_options(populate_existing=True)
    ).all()
    for row in rows:
        if row.state == "leased":
            _move(session, row, "open", actor="lease", lease_holder=None, lease_until=None)
        until = now + timedelta(seconds=lease_s)
        _move(
            session,
            row,
            "leased",
            actor=holder,
            lease_holder=holder,
            lease_until=until,
            attempt=row.attempt + 1,
        )
    return rows


def renew(
    session: Session, project_id: int, tile_id: int, *, holder: str, attempt: int, now: datetime, lease_s: float
) -> QueueEntry:
    """A longer lease for the one who holds it. Raises Conflict for everybody else, and when it has ended."""
    row = _held(session, project_id, tile_id, holder=holder, attempt=attempt, now=now)
    row.lease_until = now + timedelta(seconds=lease_s)
    return row


def release(session: Session, project_id: int, tile_id: int, *, holder: str, attempt: int, now: datetime) -> QueueEntry:
    """Give it back. Raises Conflict when it is not held so any more."""
    row = _held(session, project_id, tile_id, holder=holder, attempt=attempt, now=now)
    _move(session, row, "open", actor=holder, lease_holder=None, lease_until=None)
    return row


def skip(
    session: Session, project_id: int, tile_id: int, *, holder: str, attempt: int, reason: str, now: datetime
) -> QueueEntry:
    """Leave it out for good, with the reason. Raises Conflict when it is not held so any more."""
    row = _held(session, project_id, tile_id, holder=holder, attempt=attempt, now=now)
    _move(session, row, "skipped", actor=holder, lease_holder=None, lease_until=None, skip_reason=reason)
    return row


def end_expired(session: Session, *, now: datetime) -> int:
    """Open again what was leased until a time that has passed; returns how many."""
    rows = session.scalars(
        select(QueueEntry)
        .where(QueueEntry.state == "leased", QueueEntry.lease_until <= now)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        _move(session, row, "open", actor="sweep", lease_holder=None, lease_until=None)
    return len(rows)


def take_over(session: Session, project_id: int, *, before: int, after: int) -> None:
    """Carry what people hold, and what they left out, from one generation into the next."""
    old = QueueEntry.__table__.alias("old")
    same = and_(
        old.c.project_id == project_id,
        old.c.generation == before,
        QueueEntry.project_id == project_id,
        QueueEntry.generation == after,
        QueueEntry.tile_id == old.c.tile_id,
    )
    kept = and_(
        QueueEntry.state == "open",
        or_(
            and_(old.c.state == "leased", old.c.lease_until.is_not(None)),
            and_(old.c.state == "skipped", old.c.skip_reason.is_not(None)),
        ),
    )
    values: dict[str, Any] = {name: old.c[name] for name in ("state", "lease_holder", "lease_until", "skip_reason")}
    session.execute(update(QueueEntry).where(same, kept).values(**values))
    session.execute(update(QueueEntry).where(same, old.c.attempt > 0).values(attempt=old.c.attempt))


def counts(session: Session, project: Project) -> dict[str, int]:
    """Entries of the live order by state."""
    rows = session.execute(
        select(QueueEntry.state, func.count())
        .where(QueueEntry.project_id == project.id, QueueEntry.generation == project.queue_generation)
        .group_by(QueueEntry.state)
    )
    return {row[0]: row[1] for row in rows}


def _held(session: Session, project_id: int, tile_id: int, *, holder: str, attempt: int, now: datetime) -> QueueEntry:
    generation = hold_order(session, project_id)
    row = session.scalars(
        select(QueueEntry)
        .where(QueueEntry.project_id == project_id, QueueEntry.generation == generation, QueueEntry.tile_id == tile_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()
    item = f"tile {tile_id}"
    if row is None:
        raise Conflict(item, "is not in the queue any more", "ask for the next one")
    ours = row.state == "leased" and row.lease_holder == holder and row.attempt == attempt
    if not ours or row.lease_until is None or row.lease_until <= now:
        raise Conflict(item, "is not held under this lease any more", "keep the work, and ask for the next one")
    return row


def _move(session: Session, row: QueueEntry, state: str, *, actor: str, **values: Any) -> None:
    check_move("entry", row.state, state)
    before = row.state
    row.state = state
    for name, value in values.items():
        setattr(row, name, value)
    after: dict[str, Any] = {"state": state, "attempt": row.attempt, "tile": row.tile_id}
    if state == "skipped":
        after["reason"] = row.skip_reason
    events.record(
        session,
        project_id=row.project_id,
        actor=actor,
        what=f"entry {state}",
        subject=f"queue_entry:{row.id}",
        before={"state": before},
        after=after,
    )
