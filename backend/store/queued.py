"""The live order with its regions, and what was answered in earlier ones, read piece by piece, for export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from backend.store.annotations import answered
from backend.store.images import tile_split
from backend.store.tables import Image, QueueEntry, Region, Tile
from mpamatch.domain.queue_export import QueuedRegion, QueuedTile
from mpamatch.domain.tiling import Box


def queued(
    session: Session,
    project_id: int,
    *,
    generation: int,
    states: Sequence[str],
    after_rank: int,
    limit: int,
    names: Mapping[int, str],
    classes: Sequence[str],
    image_id: int | None = None,
) -> list[QueuedTile]:
    """The next entries of a generation after a rank, in order. ``names``: of images by id; ``classes``: by class id."""
    query = _ENTRIES.where(
        QueueEntry.project_id == project_id,
        QueueEntry.generation == generation,
        QueueEntry.state.in_(states),
        QueueEntry.rank > after_rank,
    )
    if image_id is not None:
        query = query.where(Tile.image_id == image_id)
    return _tiles(session, query.order_by(QueueEntry.rank).limit(limit), names, classes)


_ENTRIES = (
    select(QueueEntry, Tile, Image, tile_split)
    .join(Tile, Tile.id == QueueEntry.tile_id)
    .join(Image, Image.id == Tile.image_id)
    .where(Image.state == "ready")
)


def answered_before(session: Session, project_id: int, *, generation: int) -> list[tuple[int, int]]:
    """(entry, image) of each tile that was answered in an earlier order and is not in this one: its latest entry that
    is closed, the latest orders first."""
    here = select(QueueEntry.tile_id).where(QueueEntry.project_id == project_id, QueueEntry.generation == generation)
    latest = (
        select(QueueEntry.tile_id, func.max(QueueEntry.generation).label("generation"))
        .where(
            QueueEntry.project_id == project_id,
            QueueEntry.generation < generation,
            QueueEntry.state.in_(("done", "skipped")),
            QueueEntry.tile_id.not_in(here),
        )
        .group_by(QueueEntry.tile_id)
        .subquery()
    )
    rows = session.execute(
        select(QueueEntry.id, Image.id)
        .join(latest, (latest.c.tile_id == QueueEntry.tile_id) & (latest.c.generation == QueueEntry.generation))
        .join(Tile, Tile.id == QueueEntry.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .where(QueueEntry.project_id == project_id, answered(Tile.id), Image.state == "ready")
        .order_by(QueueEntry.generation.desc(), QueueEntry.rank)
    )
    return [(row[0], row[1]) for row in rows]


def of_entries(
    session: Session, entry_ids: Sequence[int], names: Mapping[int, str], classes: Sequence[str]
) -> list[QueuedTile]:
    """Some entries of earlier orders, the latest first."""
    query = _ENTRIES.where(QueueEntry.id.in_(entry_ids)).order_by(QueueEntry.generation.desc(), QueueEntry.rank)
    return _tiles(session, query, names, classes)


def _tiles(
    session: Session, query: Select[QueueEntry, Tile, Image, str], names: Mapping[int, str], classes: Sequence[str]
) -> list[QueuedTile]:
    rows = session.execute(query).all()
    wanted = sorted({region_id for entry, *_ in rows for region_id in entry.region_ids})
    regions = {r.id: r for r in session.scalars(select(Region).where(Region.id.in_(wanted)))}
    return [
        QueuedTile(
            rank=entry.rank,
            tile_id=tile.id,
            image=names.get(image.id, str(image.id)),
            image_sha256=image.sha256,
            group=image.group_name,
            split=split,
            stratum=entry.stratum,
            state=entry.state,
            score=entry.score,
            noise=entry.noise,
            propensity=entry.propensity,
            round=entry.round,
            reasons=tuple(str(reason) for reason in entry.reasons),
            box=tile.box,
            size_px=tile.size_px,
            regions=tuple(_region(regions[i], classes) for i in entry.region_ids if i in regions),
        )
        for entry, tile, image, split in rows
    ]


def images_waiting(session: Session, project_id: int, *, generation: int, states: Sequence[str]) -> list[int]:
    """The images of which a tile is in a generation, by id."""
    rows = session.scalars(
        select(Tile.image_id)
        .join(QueueEntry, QueueEntry.tile_id == Tile.id)
        .join(Image, Image.id == Tile.image_id)
        .where(
            QueueEntry.project_id == project_id,
            QueueEntry.generation == generation,
            QueueEntry.state.in_(states),
            Image.state == "ready",
        )
        .distinct()
        .order_by(Tile.image_id)
    )
    return list(rows)


def _region(row: Region, classes: Sequence[str]) -> QueuedRegion:
    known = 0 <= row.predicted_class < len(classes)
    return QueuedRegion(
        region_id=row.id,
        box=Box(row.x_px, row.y_px, row.width_px, row.height_px),
        rings=row.polygon,
        area_px=row.area_px,
        predicted_class=classes[row.predicted_class] if known else str(row.predicted_class),
        mean_confidence=row.mean_confidence,
        uncertainty=row.uncertainty,
        margin=row.margin,
        impurity=row.impurity,
        disagreement=row.disagreement,
    )
