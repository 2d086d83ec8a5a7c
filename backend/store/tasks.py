"""Tasks: which tile is which Label Studio task, and what it shows there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import or_, select, update
from sqlalchemy.orm import Session

from backend.store.tables import Annotation, Task


def live(session: Session, project_id: int) -> Sequence[Task]:
    """Tasks that wait in Label Studio, by id there."""
    return session.scalars(
        select(Task).where(Task.project_id == project_id, Task.state == "live").order_by(Task.ls_task_id)
    ).all()


def any_there(session: Session, project_id: int) -> bool:
    """Whether a task of the project is in Label Studio."""
    there = select(Task.id).where(Task.project_id == project_id, Task.state != "gone").limit(1)
    return session.scalar(there) is not None


def live_now(session: Session, numbers: Collection[int]) -> Sequence[Task]:
    """Those of some tasks that still wait, as their rows are now."""
    query = select(Task).where(Task.id.in_(sorted(numbers)), Task.state == "live").order_by(Task.ls_task_id)
    return session.scalars(query).all()


def tiles_with_one(session: Session, project_id: int, tile_ids: Collection[int]) -> frozenset[int]:
    """Those of some tiles that have a task that waits. A tile that was labelled in part may have earlier ones."""
    query = select(Task.tile_id).where(
        Task.project_id == project_id, Task.tile_id.in_(sorted(tile_ids)), Task.state == "live"
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


def held_numbers(session: Session, project_id: int, ls_task_ids: Collection[int]) -> dict[int, int]:
    """The tile behind each of some Label Studio tasks that are there as far as we know."""
    query = select(Task.ls_task_id, Task.tile_id).where(
        Task.project_id == project_id, Task.ls_task_id.in_(sorted(ls_task_ids)), Task.state != "gone"
    )
    return {row[0]: row[1] for row in session.execute(query)}


def uploaded_numbers(session: Session, project_id: int, ls_task_ids: Collection[int]) -> frozenset[int]:
    """Those of some Label Studio tasks that a person made and that we took in."""
    query = select(Task.ls_task_id).where(
        Task.project_id == project_id,
        Task.ls_task_id.in_(sorted(ls_task_ids)),
        Task.state != "gone",
        Task.origin == "uploaded",
    )
    return frozenset(session.scalars(query))


def free_numbers(session: Session, project_id: int, tiles: Mapping[int, int]) -> list[int]:
    """Part earlier tasks from numbers that Label Studio gave again, to the tasks of ``tiles`` (by number).

    On SQLite it numbers an import from its highest task that is left, so a removed last one's number comes again. The
    earlier row is gone and keeps its labels under a number that no server gives. Returns the tiles of rows that waited.
    """
    query = select(Task).where(Task.project_id == project_id, Task.ls_task_id.in_(sorted(tiles)))
    waited = []
    for row in session.scalars(query).all():
        if row.state != "gone" and row.tile_id == tiles[row.ls_task_id]:
            continue
        if row.state == "live":
            waited.append(row.tile_id)
        session.execute(
            update(Annotation)
            .where(Annotation.project_id == project_id, Annotation.ls_task_id == row.ls_task_id)
            .values(ls_task_id=-row.id)
        )
        row.state, row.ls_task_id = "gone", -row.id
    session.flush()
    return waited


def of_tile(session: Session, tile_id: int) -> Task | None:
    """A tile's task that waits, else the last that is in Label Studio."""
    return session.scalars(
        select(Task)
        .where(Task.tile_id == tile_id, Task.state != "gone")
        .order_by((Task.state == "live").desc(), Task.id.desc())
        .limit(1)
    ).one_or_none()


def beside(session: Session, task: Task) -> Task | None:
    """Another task of its tile that is in Label Studio, the one that waits before others; None for most."""
    return session.scalars(
        select(Task)
        .where(Task.tile_id == task.tile_id, Task.state != "gone", Task.id != task.id)
        .order_by((Task.state == "live").desc(), Task.id.desc())
        .limit(1)
    ).one_or_none()


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
