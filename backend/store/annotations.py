"""Annotations by the task that they were made on: what we believe Label Studio holds."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.store.tables import Annotation, Task


def ids_by_task(session: Session, project_id: int) -> dict[int, set[int]]:
    """By Label Studio's task id: the annotations that are there as far as we know; removed tasks are left out."""
    found: dict[int, set[int]] = {}
    rows = session.execute(
        select(Annotation.ls_task_id, Annotation.ls_annotation_id)
        .join(Task, (Task.project_id == Annotation.project_id) & (Task.ls_task_id == Annotation.ls_task_id))
        .where(Annotation.project_id == project_id, Annotation.state != "deleted", Task.state != "gone")
    )
    for ls_task_id, ls_annotation_id in rows:
        found.setdefault(ls_task_id, set()).add(ls_annotation_id)
    return found
