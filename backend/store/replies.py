"""Writes that carry an ``Idempotency-Key`` happen once: the reply is kept in the same transaction as what they did.

Two at once take turns at the unique row; the second waits, then reads the first one's reply. What failed is not kept,
since nothing happened: the same write may be tried again.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend.store.tables import Reply
from mpamatch.errors import BadInput

KEPT_FOR: Final = timedelta(hours=24)


def take(
    session: Session, *, token_id: int, idempotency_key: str, request_digest: bytes, now: datetime
) -> tuple[Reply, bool]:
    """The row of this write, and whether it is the first of its kind. Raises BadInput for another write's key."""
    made = session.scalar(
        insert(Reply)
        .values(token_id=token_id, idempotency_key=idempotency_key, request_digest=request_digest, created_at=now)
        .on_conflict_do_nothing()
        .returning(Reply.id)
    )
    row = session.scalars(
        select(Reply).where(Reply.token_id == token_id, Reply.idempotency_key == idempotency_key)
    ).one()
    if row.request_digest != request_digest:
        raise BadInput("Idempotency-Key", "was used for another request", "make a new one for each write")
    return row, made is not None


def keep(row: Reply, status: int, body: dict[str, Any]) -> None:
    """What was answered."""
    row.status, row.body = status, body


def forget(session: Session, *, now: datetime) -> None:
    """Drop what nobody repeats any more."""
    session.execute(delete(Reply).where(Reply.created_at < now - KEPT_FOR))
