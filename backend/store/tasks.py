"""Tasks: which tile is which Label Studio task, and what it shows there."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select
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
