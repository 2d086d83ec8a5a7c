"""Masks by tile: append-only versions; the newest not withdrawn counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backend.store.tables import Image, Mask, Tile


@dataclass(frozen=True)
class CurrentMask:
    """The mask of a tile that counts now."""

    mask_id: int
    tile_id: int
    version: int
    blob: str
    png_blob: str
    group: str
    split: str
    first_run_id: int | None
    created_at: datetime
    reviewed_share: float


def append(
    session: Session,
    *,
    tile_id: int,
    origin: str,
    blob: str,
    reviewed_share: float,
    annotation_id: int | None = None,
    prediction_id: int | None = None,
) -> Mask | None:
    """Add the next version, unless the newest version says the same; None then. Locks the tile's row meanwhile."""
    session.execute(select(Tile.id).where(Tile.id == tile_id).with_for_update())
    newest = session.scalars(
        select(Mask).where(Mask.tile_id == tile_id).order_by(Mask.version.desc()).limit(1)
    ).one_or_none()
    if newest is not None and newest.withdrawn_at is None:
        same_source = newest.annotation_id == annotation_id
        if same_source and (newest.blob, newest.origin) == (blob, origin):
            return None
    if origin == "imported" and _imported_before(session, tile_id, blob):
        return None  # registering a folder again must not lay its masks over what people drew since
    mask = Mask(
        tile_id=tile_id,
        version=1 if newest is None else newest.version + 1,
        origin=origin,
        blob=blob,
        reviewed_share=reviewed_share,
        annotation_id=annotation_id,
        prediction_id=prediction_id,
    )
    session.add(mask)
    session.flush()
    return mask


def _imported_before(session: Session, tile_id: int, blob: str) -> bool:
    query = select(Mask.id).where(Mask.tile_id == tile_id, Mask.origin == "imported", Mask.blob == blob)
    return session.scalar(query.limit(1)) is not None


def withdraw_of_annotation(session: Session, annotation_id: int, *, now: datetime) -> int:
    """Take back every mask that came from one annotation (it was deleted or turned into a skip). Rows stay."""
    result = session.execute(
        update(Mask).where(Mask.annotation_id == annotation_id, Mask.withdrawn_at.is_(None)).values(withdrawn_at=now)
    )
    return int(getattr(result, "rowcount", 0))


def current(session: Session, project_id: int) -> Sequence[CurrentMask]:
    """The counting mask of every labelled tile of a project that may be used, by tile id."""
    newest = (
        select(Mask.tile_id, func.max(Mask.version).label("version"))
        .where(Mask.withdrawn_at.is_(None))
        .group_by(Mask.tile_id)
        .subquery()
    )
    rows = session.execute(
        select(
            Mask.id,
            Mask.tile_id,
            Mask.version,
            Mask.blob,
            Tile.png_blob,
            Image.group_name,
            Image.split,
            Mask.first_run_id,
            Mask.created_at,
            Mask.reviewed_share,
        )
        .join(newest, (newest.c.tile_id == Mask.tile_id) & (newest.c.version == Mask.version))
        .join(Tile, Tile.id == Mask.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .where(Tile.project_id == project_id, Tile.state == "ready", Image.state == "ready", Mask.reviewed_share > 0)
        .order_by(Mask.tile_id)
    )
    return [CurrentMask(*values) for values in map(tuple, rows)]


def labelled_tile_ids(session: Session, project_id: int) -> frozenset[int]:
    """Tiles with any counting mask, reviewed or abstained."""
    rows = session.scalars(
        select(Mask.tile_id)
        .join(Tile, Tile.id == Mask.tile_id)
        .where(Tile.project_id == project_id, Mask.withdrawn_at.is_(None))
        .distinct()
    )
    return frozenset(rows)


def count_in_run(session: Session, run_id: int, mask_ids: Sequence[int]) -> None:
    """Note which run used a mask first: so each label is counted by exactly one training set as new."""
    session.execute(update(Mask).where(Mask.id.in_(mask_ids), Mask.first_run_id.is_(None)).values(first_run_id=run_id))
