"""Tasks: which tile is which Label Studio task, and what it shows there."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from backend.store.tables import Task


def live(session: Session, project_id: int) -> Sequence[Task]:
    """Tasks that wait in Label Studio, by id there."""
    return session.scalars(
        select(Task).where(Task.project_id == project_id, Task.state == "live").order_by(Task.ls_task_id)
    ).all()


def live_now(session: Session, numbers: Collection[int]) -> Sequence[Task]:
    """Those of some tasks that still wait, as their rows are now."""
    query = select(Task).where(Task.id.in_(sorted(numbers)), Task.state == "live").order_by(Task.ls_task_id)
    return session.scalars(query).all()


def tiles_with_one(session: Session, project_id: int, tile_ids: Collection[int]) -> frozenset[int]:
    """Those of some tiles that have a task, waiting or labelled."""
    query = select(Task.tile_id).where(
        Task.project_id == project_id, Task.tile_id.in_(sorted(tile_ids)), Task.state != "gone"
    )
    return frozenset(session.scalars(query))


def known_ids(session: Session, project_id: int, ls_task_ids: Sequence[int]) -> set[int]:
    return set(
        session.scalars(select(Task.ls_task_id).where(Task.project_id == project_id, Task.ls_task_id.in_(ls_task_ids)))
    )


def by_ls_id(session: Session, project_id: int, ls_task_id: int) -> Task | None:
    return session.scalars(
        select(Task).where(Task.project_id == project_id, Task.ls_task_id == ls_task_id)
    ).one_or_none()


def tiles_by_ls_id(session: Session, project_id: int, ls_task_ids: Collection[int]) -> dict[int, int]:
    """The tile behind each of some Label Studio tasks that we know."""
    query = select(Task.ls_task_id, Task.tile_id).where(
        Task.project_id == project_id, Task.ls_task_id.in_(sorted(ls_task_ids))
    )
    return {row[0]: row[1] for row in session.execute(query)}


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
