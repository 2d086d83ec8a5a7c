"""The ranked queue as it is served: its head, its entries by tile, their states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, and_, func, or_, select, update
from sqlalchemy.orm import Session

from backend.store import leases
from backend.store.images import tile_split
from backend.store.tables import Image, Project, QueueEntry, Ranking, Task, Tile

IN_LABEL_STUDIO = "label-studio"
WAITING = ("open", "leased")


@dataclass(frozen=True)
class Listed:
    """One line of the queue as people see it."""

    rank: int
    tile_id: int
    image: str
    split: str
    stratum: str
    state: str
    score: float
    reasons: tuple[str, ...]
    ls_task_id: int | None


def size(session: Session, project: Project) -> int:
    """Entries in the live generation, done ones included: the divisor of the score sent to Label Studio."""
    return int(
        session.scalar(
            select(func.count()).where(
                QueueEntry.project_id == project.id, QueueEntry.generation == project.queue_generation
            )
        )
        or 0
    )


def head(session: Session, project: Project, n: int) -> Sequence[QueueEntry]:
    """The first entries that wait for a label, that no person holds, and whose picture can be shown."""
    return session.scalars(
        select(QueueEntry)
        .join(Tile, Tile.id == QueueEntry.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .where(
            Image.state == "ready",
            QueueEntry.ranking_id == leases.live_ranking(project.id),
            _for_label_studio(),
        )
        .order_by(QueueEntry.rank)
        .limit(n)
    ).all()


def _for_label_studio() -> ColumnElement[bool]:
    return or_(
        QueueEntry.state == "open",
        and_(QueueEntry.state == "leased", QueueEntry.lease_holder == IN_LABEL_STUDIO),
    )


def reserve(session: Session, project_id: int, tile_ids: Sequence[int]) -> frozenset[int]:
    """Those of some tiles that Label Studio may show, leased to it: before their tasks are made, so that what a person
    claimed since the head was planned does not get one."""
    generation = leases.hold_order(session, project_id)
    taken = session.scalars(
        update(QueueEntry)
        .where(
            QueueEntry.project_id == project_id,
            QueueEntry.generation == generation,
            QueueEntry.tile_id.in_(tile_ids),
            _for_label_studio(),
        )
        .values(state="leased", lease_holder=IN_LABEL_STUDIO, lease_until=None)
        .returning(QueueEntry.tile_id)
    )
    return frozenset(taken)


def of_tiles(session: Session, project: Project, tile_ids: Sequence[int]) -> dict[int, QueueEntry]:
    rows = session.scalars(
        select(QueueEntry).where(
            QueueEntry.project_id == project.id,
            QueueEntry.generation == project.queue_generation,
            QueueEntry.tile_id.in_(tile_ids),
        )
    )
    return {entry.tile_id: entry for entry in rows}


def asked(session: Session, project: Project, tile_id: int) -> QueueEntry | None:
    """A tile's entry in the live order; when it stands there no more, the latest that was kept when it was answered."""
    return session.scalars(
        select(QueueEntry)
        # By way of the orders, of which there are few: no index holds entries by their tile alone.
        .join(Ranking, (Ranking.project_id == project.id) & (Ranking.generation == QueueEntry.generation))
        .where(
            QueueEntry.project_id == project.id,
            QueueEntry.tile_id == tile_id,
            QueueEntry.generation <= project.queue_generation,
            or_(QueueEntry.generation == project.queue_generation, QueueEntry.state.not_in(WAITING)),
        )
        .order_by(QueueEntry.generation.desc())
        .limit(1)
    ).one_or_none()


def set_state(
    session: Session, project: Project, tile_ids: Sequence[int], state: str, *, holder: str | None = None
) -> None:
    """Move the live entries of some tiles; a tile without an entry is no error."""
    generation = leases.hold_order(session, project.id)
    session.execute(
        update(QueueEntry)
        .where(
            QueueEntry.project_id == project.id,
            QueueEntry.generation == generation,
            QueueEntry.tile_id.in_(tile_ids),
            QueueEntry.state != state,
        )
        .values(state=state, lease_holder=holder, lease_until=None)
    )


def listing(session: Session, project: Project, n: int) -> list[Listed]:
    """The queue from its first waiting entry, in the order in which Label Studio serves it."""
    rows = session.execute(
        select(QueueEntry, Image.uri, tile_split, Task.ls_task_id)
        .join(Tile, Tile.id == QueueEntry.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .outerjoin(Task, (Task.tile_id == Tile.id) & (Task.state == "live"))
        .where(
            Image.state == "ready",
            QueueEntry.ranking_id == leases.live_ranking(project.id),
            QueueEntry.state.in_(WAITING),
        )
        .order_by(QueueEntry.rank)
        .limit(n)
    )
    return [
        Listed(
            rank=entry.rank,
            tile_id=entry.tile_id,
            image=uri.rsplit("/", 1)[-1],
            split=split,
            stratum=entry.stratum,
            state=entry.state,
            score=entry.score,
            reasons=tuple(entry.reasons),
            ls_task_id=ls_task_id,
        )
        for entry, uri, split, ls_task_id in rows
    ]
