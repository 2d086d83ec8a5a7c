"""Webhooks as received: stored before they are acknowledged, applied later, each once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend.store.tables import Inbox


def keep(session: Session, *, project_id: int, dedupe_key: str, action: str, payload: dict[str, Any]) -> bool:
    """Store one delivery; False when the same one is here already."""
    statement = (
        insert(Inbox)
        .values(project_id=project_id, dedupe_key=dedupe_key, action=action, payload=payload)
        .on_conflict_do_nothing()
        .returning(Inbox.id)
    )
    return session.scalar(statement) is not None


def any_waiting(session: Session, project_id: int) -> bool:
    """Whether something is not applied yet, so that a wake-up for it is on its way already."""
    query = select(Inbox.id).where(Inbox.project_id == project_id, Inbox.applied_at.is_(None)).limit(1)
    return session.scalar(query) is not None


def waiting(session: Session, project_id: int, *, limit: int = 200) -> Sequence[Inbox]:
    """Deliveries not yet applied, oldest first."""
    return session.scalars(
        select(Inbox).where(Inbox.project_id == project_id, Inbox.applied_at.is_(None)).order_by(Inbox.id).limit(limit)
    ).all()


def applied(session: Session, ids: Sequence[int], *, now: datetime, problem: str | None = None) -> None:
    """Mark deliveries as dealt with, with what was wrong with them if anything was."""
    session.execute(update(Inbox).where(Inbox.id.in_(ids)).values(applied_at=now, problem=problem))
