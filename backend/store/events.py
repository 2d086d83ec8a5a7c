"""The audit log: one row per move, written in the move's own transaction, and sealed into a chain afterwards.

A chain inside each transaction would make all of them wait for one another; so the ``io`` worker gives what was
committed its number and hash a little later. A hash covers the one before it: an event that is altered, removed or
put elsewhere breaks every later one. What is cut off at the end shows only against a head kept elsewhere (a backup).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from backend.store.tables import Event

CHAIN_LOCK = 7_213_003
SEAL_BATCH = 2_000
GENESIS = "0" * 64

_FACTS = (Event.id, Event.project_id, Event.at, Event.actor, Event.what, Event.subject, Event.before, Event.after)


def record(
    session: Session,
    *,
    project_id: int | None,
    actor: str,
    what: str,
    subject: str,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Append one event. ``subject`` is ``table:id``; contents and credentials have no place here."""
    session.add(Event(project_id=project_id, actor=actor, what=what, subject=subject, before=before, after=after))


@dataclass(frozen=True)
class Move:
    """One event of a row that went from a state to another, as `record` takes it."""

    project_id: int
    actor: str
    what: str
    subject: str
    before: dict[str, Any]
    after: dict[str, Any]


def record_moves(session: Session, moves: Sequence[Move]) -> None:
    """Append some at once, in that order, without an object for each: where somebody waits, that takes a third."""
    if moves:
        session.connection().execute(insert(Event.__table__), [vars(move) for move in moves])  # type: ignore[arg-type]


def seal(session: Session, project_id: int | None) -> int:
    """Append what is not sealed yet to the chain of a project (None: of the installation); how many that was.

    At most ``SEAL_BATCH`` at a time. Several callers take turns until their transactions end, so no event is sealed
    twice; the order is the one in which events are found, since transactions commit in another order than they begin.
    """
    session.flush()
    session.execute(select(func.pg_advisory_xact_lock(CHAIN_LOCK, project_id or 0)))
    unsealed = session.execute(
        select(*_FACTS).where(_of(project_id), Event.seal_number.is_(None)).order_by(Event.id).limit(SEAL_BATCH)
    ).all()
    if not unsealed:
        return 0
    number, digest = _last(session, project_id) or (0, GENESIS)
    rows = []
    for place, event in enumerate(unsealed, start=number + 1):
        digest = _digest(digest, place, event)
        rows.append({"event": event.id, "seal_number": place, "seal": digest})
    statement = update(Event.__table__).where(Event.__table__.c.id == bindparam("event"))  # type: ignore[arg-type]
    session.connection().execute(statement.values(seal_number=bindparam("seal_number"), seal=bindparam("seal")), rows)
    return len(rows)


def any_unsealed(session: Session, project_id: int | None) -> bool:
    """Whether something was recorded that has no place in the chain yet."""
    return session.scalar(select(Event.id).where(_of(project_id), Event.seal_number.is_(None)).limit(1)) is not None


def last_seal(session: Session, project_id: int | None) -> int:
    """How many events the chain holds: the number of its last one."""
    last = _last(session, project_id)
    return 0 if last is None else last[0]


def chain_head(session: Session, project_id: int | None) -> str | None:
    """The hash of the last sealed event: whoever keeps it elsewhere can tell later that nothing before it changed."""
    last = _last(session, project_id)
    return None if last is None else last[1]


def verify_chain(session: Session, project_id: int | None, *, known_head: str | None = None) -> str | None:
    """None when every sealed event is as it was and where it was, else one line that names the first that is not.

    ``known_head``: a head that was kept elsewhere and must be in the chain still.
    """
    digest, expected, head_seen = GENESIS, 1, known_head is None
    for event in _sealed(session, project_id):
        if event.seal_number != expected:
            missing = f"seal {expected}" if event.seal_number == expected + 1 else f"seals {expected} and more"
            return f"events: {missing} missing before event {event.id} (seal {event.seal_number})"
        digest = _digest(digest, expected, event)
        if event.seal != digest:
            return f"event {event.id} (seal {expected}): is not what was sealed there: {event.what} of {event.subject}"
        head_seen = head_seen or digest == known_head
        expected += 1
    if not head_seen:
        return f"events: the chain ends at seal {expected - 1} without the head that was kept ({str(known_head)[:12]})"
    return None


def _sealed(session: Session, project_id: int | None) -> Iterator[Row[Any]]:
    query = (
        select(*_FACTS, Event.seal_number, Event.seal)
        .where(_of(project_id), Event.seal_number.is_not(None))
        .order_by(Event.seal_number)
        .execution_options(yield_per=1_000)
    )
    return iter(session.execute(query))


def _of(project_id: int | None) -> ColumnElement[bool]:
    return Event.project_id.is_(None) if project_id is None else Event.project_id == project_id


def _last(session: Session, project_id: int | None) -> tuple[int, str] | None:
    """Number and hash of the last sealed event."""
    query = select(Event.seal_number, Event.seal).where(_of(project_id), Event.seal_number.is_not(None))
    row = session.execute(query.order_by(Event.seal_number.desc()).limit(1)).one_or_none()
    return None if row is None else (int(row.seal_number), str(row.seal))


def _digest(previous: str, number: int, event: Row[Any]) -> str:
    """The hash of an event at its place: of everything that the row says, and of the hash before it."""
    at: datetime = event.at
    facts = [
        previous,
        number,
        event.id,
        event.project_id,
        at.astimezone(UTC).isoformat(),
        event.actor,
        event.what,
        event.subject,
        event.before,
        event.after,
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
