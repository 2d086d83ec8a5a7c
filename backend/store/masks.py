"""Masks by tile: append-only versions; the newest not withdrawn counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, Subquery, func, or_, select, update
from sqlalchemy.orm import Session

from backend.store.images import PoolTile, pool_query, tile_split
from backend.store.tables import Image, Mask, Run, Tile

# What a run that ended like this was shown, no model has learnt: its labels count again.
WITHOUT_MODEL = ("failed", "cancelled")


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
    first_run_state: str | None
    um_per_px: float | None = None

    @property
    def returned(self) -> bool:
        """Whether only runs that ended without a model have seen it."""
        return self.first_run_state in WITHOUT_MODEL


def append(
    session: Session,
    *,
    tile_id: int,
    origin: str,
    blob: str,
    reviewed_share: float,
    annotation_id: int | None = None,
    prediction_id: int | None = None,
    said: tuple[str, float] | None = None,
    asked: bool = False,
) -> Mask | None:
    """Add the next version, unless the newest version says the same; None then. Locks the tile's row meanwhile.

    ``said``: what its source alone says and the share of that, where ``blob`` holds more (`combine_answers`).
    ``asked``: a person brings this very mask in, so that it counts also where it was imported before.
    """
    session.execute(select(Tile.id).where(Tile.id == tile_id).with_for_update())
    newest = session.scalars(
        select(Mask).where(Mask.tile_id == tile_id).order_by(Mask.version.desc()).limit(1)
    ).one_or_none()
    if newest is not None and newest.withdrawn_at is None:
        said_blob = None if said is None else said[0]
        same_source = newest.annotation_id == annotation_id and newest.said_blob == said_blob
        if same_source and (newest.blob, newest.origin) == (blob, origin):
            return None
    if origin == "imported" and not asked and _imported_before(session, tile_id, blob):
        return None  # registering a folder again must not lay its masks over what people drew since
    mask = Mask(
        tile_id=tile_id,
        version=1 if newest is None else newest.version + 1,
        origin=origin,
        blob=blob,
        reviewed_share=reviewed_share,
        said_blob=None if said is None else said[0],
        said_share=None if said is None else said[1],
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
    query = _current(
        project_id,
        Mask.id,
        Mask.tile_id,
        Mask.version,
        Mask.blob,
        Tile.png_blob,
        Image.group_name,
        tile_split,
        Mask.first_run_id,
        Mask.created_at,
        Mask.reviewed_share,
        Run.state,
        Image.um_per_px * Tile.scale,
    )
    rows = session.execute(query.outerjoin(Run, Run.id == Mask.first_run_id).order_by(Mask.tile_id))
    return [CurrentMask(*values) for values in map(tuple, rows)]


def audit_counts(session: Session, project_id: int) -> tuple[int, int]:
    """(tiles, groups) of the current masks that judge."""
    query = _current(project_id, func.count(), func.count(Image.group_name.distinct())).where(tile_split == "audit")
    tiles, groups = session.execute(query).one()
    return tiles, groups


def _counting() -> Subquery:
    """Of each tile the version that counts."""
    query = select(Mask.tile_id, func.max(Mask.version).label("version")).where(Mask.withdrawn_at.is_(None))
    return query.group_by(Mask.tile_id).subquery()


def _current(project_id: int, *columns: Any) -> Select[*tuple[Any, ...]]:
    newest = _counting()
    return (
        select(*columns)
        .select_from(Mask)
        .join(newest, (newest.c.tile_id == Mask.tile_id) & (newest.c.version == Mask.version))
        .join(Tile, Tile.id == Mask.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .where(Tile.project_id == project_id, Tile.state == "ready", Image.state == "ready", Mask.reviewed_share > 0)
    )


def unlabelled(session: Session, project_id: int) -> list[PoolTile]:
    """The train tiles of which something is unlabelled, by id: a tile that was labelled in part is one of them, one
    where a person could not tell is not."""
    return [PoolTile(*row) for row in session.execute(_unlabelled(project_id))]


def any_unlabelled(session: Session, project_id: int) -> bool:
    """Whether :func:`unlabelled` has a tile, without reading the pool."""
    one = _unlabelled(project_id).with_only_columns(Tile.id).order_by(None).limit(1)
    return session.scalar(one) is not None


def _unlabelled(project_id: int) -> Select[*tuple[Any, ...]]:
    newest, share = _counting(), Mask.reviewed_share
    return (
        pool_query(project_id, split="train")
        .outerjoin(newest, newest.c.tile_id == Tile.id)
        .outerjoin(Mask, (Mask.tile_id == Tile.id) & (Mask.version == newest.c.version))
        .where(or_(share.is_(None), (share > 0) & (share < 1)))
    )


def newest_counting(session: Session, tile_id: int) -> Mask | None:
    """The newest version of a tile's mask that is not withdrawn."""
    return session.scalars(
        select(Mask).where(Mask.tile_id == tile_id, Mask.withdrawn_at.is_(None)).order_by(Mask.version.desc()).limit(1)
    ).one_or_none()


def blobs_of(session: Session, mask_ids: Sequence[int]) -> dict[int, str]:
    """Where some versions lie, by their ids, withdrawn ones included."""
    return {row.id: row.blob for row in session.execute(select(Mask.id, Mask.blob).where(Mask.id.in_(mask_ids)))}


def layers(session: Session, tile_id: int) -> list[Mask]:
    """What a tile's mask is made of, the oldest first: of each annotation the newest version that is not withdrawn, on
    top of the last mask that was brought in from elsewhere, which takes the place of all before it."""
    found: dict[int, Mask] = {}
    rows = session.scalars(
        select(Mask).where(Mask.tile_id == tile_id, Mask.withdrawn_at.is_(None)).order_by(Mask.version)
    )
    for mask in rows:
        if mask.annotation_id is None:
            found.clear()
        # Taken out first: the newest version stands where it came.
        source = mask.annotation_id or 0
        found.pop(source, None)
        found[source] = mask
    return list(found.values())


def reviewed_shares(session: Session, tile_ids: Sequence[int]) -> dict[int, float]:
    """Of these tiles, by tile: how much the mask that counts says something of; tiles without one are left out."""
    newest = (
        select(Mask.tile_id, func.max(Mask.version).label("version"))
        .where(Mask.tile_id.in_(tile_ids), Mask.withdrawn_at.is_(None))
        .group_by(Mask.tile_id)
        .subquery()
    )
    rows = session.execute(
        select(Mask.tile_id, Mask.reviewed_share).join(
            newest, (newest.c.tile_id == Mask.tile_id) & (newest.c.version == Mask.version)
        )
    )
    return {row.tile_id: row.reviewed_share for row in rows}


def imported_tile_ids(session: Session, project_id: int) -> frozenset[int]:
    """Tiles whose counting masks all came with the images."""
    rows = session.scalars(
        select(Mask.tile_id)
        .join(Tile, Tile.id == Mask.tile_id)
        .where(Tile.project_id == project_id, Mask.withdrawn_at.is_(None))
        .group_by(Mask.tile_id)
        .having(func.bool_and(Mask.origin == "imported"))
    )
    return frozenset(rows)


def only_imported(session: Session, tile_ids: Sequence[int]) -> frozenset[int]:
    """Of these tiles, those whose counting masks all came with the images: nobody has looked at them here."""
    rows = session.execute(
        select(Mask.tile_id, func.bool_and(Mask.origin == "imported"))
        .where(Mask.tile_id.in_(tile_ids), Mask.withdrawn_at.is_(None))
        .group_by(Mask.tile_id)
    )
    return frozenset(tile_id for tile_id, imported in rows if imported)


def count_in_run(session: Session, run_id: int, mask_ids: Sequence[int]) -> None:
    """Note which run used a mask first, so that each label is counted as new by exactly one training set.

    A run that ended without a model does not count: the next one takes its place.
    """
    without_model = select(Run.id).where(Run.state.in_(WITHOUT_MODEL))
    unlearnt = or_(Mask.first_run_id.is_(None), Mask.first_run_id.in_(without_model))
    session.execute(update(Mask).where(Mask.id.in_(mask_ids), unlearnt).values(first_run_id=run_id))
