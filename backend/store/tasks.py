"""Tasks: which tile is which Label Studio task, and what it shows there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from backend.store.tables import Task


def live(session: Session, project_id: int) -> Sequence[Task]:
    """Tasks that wait in Label Studio, by id there."""
    return session.scalars(
        select(Task).where(Task.project_id == project_id, Task.state == "live").order_by(Task.ls_task_id)
    ).all()


def known_ids(session: Session, project_id: int, ls_task_ids: Sequence[int]) -> set[int]:
    return set(
        session.scalars(select(Task.ls_task_id).where(Task.project_id == project_id, Task.ls_task_id.in_(ls_task_ids)))
    )


def by_ls_id(session: Session, project_id: int, ls_task_id: int) -> Task | None:
    return session.scalars(
        select(Task).where(Task.project_id == project_id, Task.ls_task_id == ls_task_id)
    ).one_or_none()


def of_tile(session: Session, tile_id: int) -> Task | None:
    return session.scalars(select(Task).where(Task.tile_id == tile_id, Task.state != "gone")).one_or_none()


# A page asks for its picture several times; noting each of them would only cost writes.
_NOTE_AGAIN = timedelta(seconds=30)


def note_opened(session: Session, tile_id: int, *, now: datetime) -> None:
    """Remember that somebody's page shows this tile: Label Studio's locks cannot be read, its pictures come from us."""
    session.execute(
        update(Task)
        .where(
            Task.tile_id == tile_id,
            Task.state == "live",
            or_(Task.opened_at.is_(None), Task.opened_at < now - _NOTE_AGAIN),
        )
        .values(opened_at=now)
    )
