"""Entries of the queue that a person holds for a while: claimed, renewed, given back, answered, left out.

``attempt`` is the fencing token of an entry: each claim raises it, so that one whose lease ran out cannot renew, give
back or skip what somebody else holds by now. What Label Studio shows is leased to it without an end and never handed
out here; a lease that a person holds keeps its tile out of Label Studio. An open entry names its last holder, whose
late answer may count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    DateTime,
    ScalarSelect,
    Text,
    and_,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, defer, lazyload
from sqlalchemy.orm.attributes import set_committed_value
from sqlalchemy.sql.dml import ReturningUpdate

from backend.store import events
from backend.store.not_held import why_not_held, why_not_there
from backend.store.tables import Image, Project, QueueEntry, Ranking, Tile
from mpamatch.domain.states import check_move

_ORDER_LOCK: Final = 7_213_005


def hold_order(session: Session, project_id: int, *, to_change: bool = False) -> int:
    """Keep the live generation from changing until this transaction ends; returns its number.

    Claims share this hold. Who writes the next generation takes it alone, and only for the moment of the flip, so that
    no lease is given in an order that is just being replaced.
    """
    _lock_order(session, project_id, to_change=to_change)
    return int(session.scalar(select(Project.queue_generation).where(Project.id == project_id)) or 0)


def _lock_order(session: Session, project_id: int, *, to_change: bool = False) -> None:
    lock = func.pg_advisory_xact_lock if to_change else func.pg_advisory_xact_lock_shared
    session.execute(select(lock(_ORDER_LOCK, project_id)))


def live_ranking(project_id: Any) -> ScalarSelect[int]:
    """The number of the live order, for a query of its waiting entries: there is an index of these by it."""
    return (
        select(Ranking.id)
        .join(Project, and_(Project.id == Ranking.project_id, Project.queue_generation == Ranking.generation))
        .where(Project.id == project_id)
        .scalar_subquery()
    )


def claim(
    session: Session, project_id: int, *, holder: str, count: int, now: datetime, lease_s: float
) -> Sequence[QueueEntry]:
    """The best entries that nobody holds, leased to ``holder``. Callers at once never get the same one."""
    _lock_order(session, project_id)
    until = now + timedelta(seconds=lease_s)
    given = {"project": project_id, "holder": holder, "count": count, "at": now, "until": until}
    found = session.execute(_CLAIM, given, execution_options=_AS_THE_DATABASE_SAYS).all()
    rows, moves = [], []
    for row, ranking, before, attempt in sorted(found, key=lambda one: one[0].rank):
        set_committed_value(row, "ranking", ranking)
        if before == "leased":
            moves.append(_event(row, before, "open", actor="lease", attempt=attempt))
        moves.append(_event(row, "open", "leased", actor=holder, attempt=row.attempt))
        rows.append(row)
    events.record_moves(session, moves)
    return rows


def _claiming() -> ReturningUpdate[QueueEntry, Ranking, str, int]:
    """One statement: each one more is a way to the database and back, which eight annotators at once wait for.

    Its states stand in its text, and once more as the index of waiting entries has them: a plan that is kept for any
    values would not use it, and walk over all that was answered since the order was made.
    """
    open_, leased, ready = (literal_column(f"'{word}'", Text) for word in ("open", "leased", "ready"))
    project, now = bindparam("project", type_=BigInteger), bindparam("at", type_=DateTime(timezone=True))
    # Looked up for the few that come first: for a join, the database makes room for all that wait.
    can_be_shown = (
        select(Image.state == ready)
        .join(Tile, Tile.image_id == Image.id)
        .where(Tile.id == QueueEntry.tile_id)
        .scalar_subquery()
        .correlate(QueueEntry)
    )
    free = (
        select(QueueEntry.id, QueueEntry.state, QueueEntry.attempt)
        .where(
            QueueEntry.ranking_id == live_ranking(project),
            QueueEntry.state.in_([open_, leased]),
            or_(QueueEntry.state == open_, and_(QueueEntry.state == leased, QueueEntry.lease_until <= now)),
            can_be_shown,
        )
        .order_by(QueueEntry.rank)
        .limit(bindparam("count", type_=BigInteger, literal_execute=True))
        .with_for_update(of=QueueEntry, skip_locked=True)
        .cte("free")
    )
    return (
        update(QueueEntry)
        .where(QueueEntry.id == free.c.id, Ranking.id == QueueEntry.ranking_id)
        .values(
            state=leased,
            lease_holder=bindparam("holder", type_=Text),
            lease_until=bindparam("until", type_=DateTime(timezone=True)),
            attempt=QueueEntry.attempt + 1,
        )
        .returning(QueueEntry, Ranking, free.c.state, free.c.attempt)
        # The ranking comes along; its marked tiles may be many, and nobody asks for them here.
        .options(lazyload(QueueEntry.ranking), defer(Ranking.artefacts))
    )


_CLAIM: Final = _claiming()
_AS_THE_DATABASE_SAYS: Final = {"populate_existing": True, "synchronize_session": False}


def renew(
    session: Session, project_id: int, tile_id: int, *, holder: str, attempt: int, now: datetime, lease_s: float
) -> QueueEntry:
    """A longer lease for the one who holds it. Raises Conflict for everybody else, and when it has ended."""
    row = _held(session, project_id, tile_id, holder=holder, attempt=attempt, now=now)
    row.lease_until = now + timedelta(seconds=lease_s)
    return row


def release(session: Session, project_id: int, tile_id: int, *, holder: str, attempt: int, now: datetime) -> QueueEntry:
    """Give it back. Raises Conflict when it is not held so."""
    row = _held(session, project_id, tile_id, holder=holder, attempt=attempt, now=now)
    _move(session, row, "open", actor=holder, lease_until=None)
    return row


def finish(session: Session, project_id: int, tile_id: int, *, holder: str, attempt: int, now: datetime) -> str | None:
    """Close it with an answer: None when that counts, else why it comes too late.

    The answer of one whose lease ran out or was given back counts too while nobody else took, answered or left out the
    tile: then it waits for just such an answer.
    """
    row = _live(session, project_id, hold_order(session, project_id), tile_id)
    if row is None:
        return f"it {why_not_there(session, project_id, tile_id).problem}"
    why = why_not_held(row, holder=holder, attempt=attempt, now=now)
    if why is not None and not why.counts:
        return f"it {why.problem}"
    if why is not None and row.state == "leased":
        _move(session, row, "open", actor="lease", lease_until=None)
    _move(session, row, "done", actor=holder, lease_holder=None, lease_until=None)
    return None


def skip(
    session: Session, project_id: int, tile_id: int, *, holder: str, attempt: int, reason: str, now: datetime
) -> QueueEntry:
    """Leave it out for good, with the reason. Raises Conflict when it is not held so."""
    row = _held(session, project_id, tile_id, holder=holder, attempt=attempt, now=now)
    _move(session, row, "skipped", actor=holder, lease_holder=None, lease_until=None, skip_reason=reason)
    return row


def open_again(session: Session, project_id: int, tile_id: int, *, actor: str) -> None:
    """What was answered or left out waits again, since that was taken back; without an entry the next order has one."""
    row = _live(session, project_id, hold_order(session, project_id), tile_id)
    if row is not None and row.state in ("done", "skipped"):
        _move(session, row, "open", actor=actor, lease_holder=None, lease_until=None, skip_reason=None)


def with_person(session: Session, project_id: int, tile_id: int) -> bool:
    """Whether somebody holds the tile, elsewhere than in Label Studio; nobody takes or gives it until this ends."""
    row = _live(session, project_id, hold_order(session, project_id), tile_id)
    return row is not None and row.state == "leased" and row.lease_until is not None


def end_expired(session: Session, *, now: datetime) -> int:
    """Open again what was leased until a time that has passed; returns how many."""
    rows = session.scalars(
        select(QueueEntry)
        .where(QueueEntry.state == "leased", QueueEntry.lease_until <= now)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        _move(session, row, "open", actor="sweep", lease_until=None)
    return len(rows)


def take_over(session: Session, project_id: int, *, before: int, after: int) -> None:
    """Carry what people hold or held last, and what they left out, from one generation into the next, and every tile's
    attempt: one that was answered and is asked for again must not take an earlier lease for its own."""
    old = QueueEntry.__table__.alias("old")
    same = and_(
        old.c.project_id == project_id,
        old.c.generation == before,
        QueueEntry.project_id == project_id,
        QueueEntry.generation == after,
        QueueEntry.tile_id == old.c.tile_id,
    )
    # Who holds or has left out a tile has claimed it once; there are few of them, and an index that finds them.
    touched = and_(same, old.c.attempt > 0, old.c.state != "done")
    kept = and_(
        QueueEntry.state == "open",
        or_(
            and_(old.c.state == "leased", old.c.lease_until.is_not(None)),
            and_(old.c.state == "skipped", old.c.skip_reason.is_not(None)),
        ),
    )
    values: dict[str, Any] = {name: old.c[name] for name in ("state", "lease_holder", "lease_until", "skip_reason")}
    session.execute(update(QueueEntry).where(touched, kept).values(**values))
    waits = and_(touched, old.c.state == "open", QueueEntry.state == "open")
    session.execute(update(QueueEntry).where(waits).values(lease_holder=old.c.lease_holder))
    last = (
        select(old.c.tile_id, func.max(old.c.attempt).label("attempt"))
        .where(old.c.project_id == project_id, old.c.generation < after, old.c.attempt > 0)
        .group_by(old.c.tile_id)
        .subquery("last")
    )
    now_there = and_(QueueEntry.project_id == project_id, QueueEntry.generation == after)
    session.execute(
        update(QueueEntry).where(now_there, QueueEntry.tile_id == last.c.tile_id).values(attempt=last.c.attempt)
    )


@dataclass(frozen=True)
class Waiting:
    """Entries of the live order whose picture can be shown: with nobody, with a person, with Label Studio."""

    open: int
    held: int
    in_label_studio: int


def waiting(session: Session, project: Project) -> Waiting:
    """What is not answered yet, by where it is."""
    held = QueueEntry.state == "leased"
    row = session.execute(
        select(
            func.count().filter(QueueEntry.state == "open"),
            func.count().filter(held, QueueEntry.lease_until.is_not(None)),
            func.count().filter(held, QueueEntry.lease_until.is_(None)),
        )
        .select_from(QueueEntry)
        .join(Tile, Tile.id == QueueEntry.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .where(
            QueueEntry.ranking_id == live_ranking(project.id),
            QueueEntry.state.in_(("open", "leased")),
            Image.state == "ready",
        )
    ).one()
    return Waiting(*row)


def counts(session: Session, project: Project) -> dict[str, int]:
    """Entries of the live order by state."""
    rows = session.execute(
        select(QueueEntry.state, func.count())
        .where(QueueEntry.project_id == project.id, QueueEntry.generation == project.queue_generation)
        .group_by(QueueEntry.state)
    )
    return {row[0]: row[1] for row in rows}


def _held(session: Session, project_id: int, tile_id: int, *, holder: str, attempt: int, now: datetime) -> QueueEntry:
    row = _live(session, project_id, hold_order(session, project_id), tile_id)
    if row is None:
        raise why_not_there(session, project_id, tile_id).conflict(tile_id)
    why = why_not_held(row, holder=holder, attempt=attempt, now=now)
    if why is not None:
        raise why.conflict(tile_id)
    return row


def _live(session: Session, project_id: int, generation: int, tile_id: int) -> QueueEntry | None:
    """The tile's entry, locked."""
    return session.scalars(
        select(QueueEntry)
        .where(QueueEntry.project_id == project_id, QueueEntry.generation == generation, QueueEntry.tile_id == tile_id)
        .with_for_update()
        .execution_options(populate_existing=True)
    ).one_or_none()


def _move(session: Session, row: QueueEntry, state: str, *, actor: str, **values: Any) -> None:
    before = row.state
    for name, value in values.items():
        setattr(row, name, value)
    move = _event(row, before, state, actor=actor, attempt=row.attempt)
    row.state = state
    events.record(session, **vars(move))


def _event(row: QueueEntry, before: str, state: str, *, actor: str, attempt: int) -> events.Move:
    """What a move is recorded as. Raises Conflict for one that is not allowed, which ends its transaction."""
    check_move("entry", before, state)
    after: dict[str, Any] = {"state": state, "attempt": attempt, "tile": row.tile_id}
    if state == "skipped":
        after["reason"] = row.skip_reason
    return events.Move(
        project_id=row.project_id,
        actor=actor,
        what=f"entry {state}",
        subject=f"queue_entry:{row.id}",
        before={"state": before},
        after=after,
    )
