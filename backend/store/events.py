"""The audit log: one row per move, written in the move's own transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from backend.store.tables import Event


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
