"""Annotations: what we believe Label Studio holds, what came to the queue, and what they say of a tile together."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, and_, or_, select
from sqlalchemy.orm import Session

from backend.store.tables import Annotation, Task, Tile

# Somebody said something of the tile, so that it is not asked for. A draft says nothing yet.
ANSWERED: Final = ("present", "skipped", "quarantined")


def answered(tile_id: Any) -> ColumnElement[bool]:
    """The condition that somebody labelled or left out a tile."""
    return select(Annotation.id).where(Annotation.tile_id == tile_id, Annotation.state.in_(ANSWERED)).exists()


def is_answered(session: Session, tile_id: int) -> bool:
    """Whether somebody labelled or left out a tile, so that it is not asked for."""
    return bool(session.scalar(select(answered(tile_id))))


def ids_by_task(session: Session, project_id: int) -> dict[int, set[int]]:
    """By Label Studio's task id: the annotations that are there as far as we know; removed tasks are left out."""
    found: dict[int, set[int]] = {}
    rows = session.execute(
        select(Annotation.ls_task_id, Annotation.ls_annotation_id)
        .join(Task, (Task.project_id == Annotation.project_id) & (Task.ls_task_id == Annotation.ls_task_id))
        .where(Annotation.project_id == project_id, Annotation.state != "deleted", Task.state != "gone")
    )
    for ls_task_id, ls_annotation_id in rows:
        assert ls_task_id is not None
        assert ls_annotation_id is not None
        found.setdefault(ls_task_id, set()).add(ls_annotation_id)
    return found


def same_answer(session: Session, tile_id: int, *, holder: str, result_blob: str) -> Annotation | None:
    """An answer to the queue that came before, word for word, and was not taken back."""
    return session.scalars(
        select(Annotation)
        .where(
            Annotation.tile_id == tile_id,
            Annotation.holder == holder,
            Annotation.result_blob == result_blob,
            Annotation.state != "deleted",
        )
        .order_by(Annotation.id)
        .limit(1)
    ).one_or_none()


def beside(session: Session, row: Annotation) -> list[int]:
    """Other annotations of its tile that count: two people labelled it, or one twice; the newest mask is used."""
    return list(
        session.scalars(
            select(Annotation.id)
            .where(Annotation.tile_id == row.tile_id, Annotation.state == "present", Annotation.id != row.id)
            .order_by(Annotation.id)
        )
    )


def mark_tile(session: Session, tile_id: int) -> None:
    """Whether a tile is an artefact: as the newest annotation says that says anything of it. A skip says so only where
    that was chosen with it."""
    session.flush()
    telling = or_(Annotation.state == "present", and_(Annotation.state == "skipped", Annotation.scope == "artefact"))
    scope = session.scalar(
        select(Annotation.scope)
        .where(Annotation.tile_id == tile_id, telling)
        .order_by(Annotation.updated_at.desc(), Annotation.id.desc())
        .limit(1)
    )
    session.get_one(Tile, tile_id).state = "artefact" if scope == "artefact" else "ready"
