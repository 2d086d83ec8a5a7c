"""One page of the queue as people see it: rank, tile, stratum, chance and reasons."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.store import images, leases, queue
from backend.store.images import tile_split
from backend.store.tables import Image, Project, QueueEntry, Task, Tile

PER_PAGE = 24


@dataclass(frozen=True)
class Waiting:
    """One entry that waits. ``clicks`` and ``seconds``: what its best region is expected to take; None without one.

    ``whole``: its mask came with the images, so it is gone over as a whole and none of its regions is asked about.
    """

    rank: int
    tile_id: int
    image_id: int
    image: str
    split: str
    stratum: str
    state: str
    score: float
    propensity: float
    regions: int
    whole: bool
    clicks: float | None
    seconds: float | None
    reasons: tuple[str, ...]
    ls_task_id: int | None


@dataclass(frozen=True)
class QueuePage:
    """Some entries in order, and how many there are in all (of the stratum, when one was asked for)."""

    entries: tuple[Waiting, ...]
    total: int
    page: int

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // PER_PAGE))


def see_queue(session: Session, project: Project, *, page: int = 1, stratum: str | None = None) -> QueuePage:
    """Entries of the live order that wait, in the order in which Label Studio serves them."""
    these = [
        Image.state == "ready",
        QueueEntry.ranking_id == leases.live_ranking(project.id),
        QueueEntry.state.in_(queue.WAITING),
    ]
    if stratum is not None:
        these.append(QueueEntry.stratum == stratum)
    total = session.scalar(
        select(func.count())
        .select_from(QueueEntry)
        .join(Tile, Tile.id == QueueEntry.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .where(*these)
    )
    pages = max(1, -(-(total or 0) // PER_PAGE))
    page = min(page, pages)
    rows = session.execute(
        select(QueueEntry, Image, tile_split, Task.ls_task_id)
        .join(Tile, Tile.id == QueueEntry.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .outerjoin(Task, (Task.tile_id == Tile.id) & (Task.state == "live"))
        .where(*these)
        .order_by(QueueEntry.rank)
        .offset((page - 1) * PER_PAGE)
        .limit(PER_PAGE)
    )
    entries = tuple(
        Waiting(
            rank=entry.rank,
            tile_id=entry.tile_id,
            image_id=image.id,
            image=images.shown_name(image),
            split=split,
            stratum=entry.stratum,
            state=entry.state,
            score=entry.score,
            propensity=entry.propensity,
            regions=len(entry.region_ids),
            whole=entry.note is not None,
            clicks=entry.clicks,
            seconds=entry.seconds,
            reasons=tuple(entry.reasons),
            ls_task_id=ls_task_id,
        )
        for entry, image, split, ls_task_id in rows
    )
    return QueuePage(entries=entries, total=total or 0, page=page)
