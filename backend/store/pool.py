"""What a ranking reads: the tiles that may be asked for with their regions, as columns, and what is labelled."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    REAL,
    BigInteger,
    ColumnElement,
    Double,
    Integer,
    and_,
    case,
    cast,
    func,
    literal_column,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.orm import Session

from backend.store import projects, second_looks
from backend.store.annotations import answered
from backend.store.columns import read_columns
from backend.store.images import tile_split
from backend.store.returning import returns
from backend.store.tables import Image, Mask, Prediction, Project, QueueEntry, Region, Tile
from mpamatch.domain.pool import Pool, RegionColumns
from mpamatch.domain.survey import Labelled

# Of the database, for each join: a quarter million tiles take some 20 MiB.
_WORK_MEMORY_MIB: Final = 64


def join_in_memory(session: Session) -> None:
    """Until the transaction ends, joins of many tiles take no files on the database's disk."""
    session.execute(text(f"SET LOCAL work_mem = '{_WORK_MEMORY_MIB}MB'"))


def read_pool(session: Session, project: Project, model_id: int) -> Pool:
    """Every tile that may be asked for: ready, predicted by the model, not labelled, not skipped; with its regions.
    Labelled in part counts as not labelled once the model has looked outside what is labelled (`returning`).

    Once no train tile is left without a mask, those whose mask only came with the images are asked for, to review.
    """
    tiles = (
        select(
            Tile.id,
            Prediction.id,
            Tile.image_id,
            cast(tile_split == "audit", Integer).cast(BigInteger),
            func.coalesce(Image.um_per_px * Tile.scale, _UNKNOWN),
            _foreground,
            func.coalesce(Tile.look_hash, 0),
        )
        .join(Image, Image.id == Tile.image_id)
        .join(Prediction, (Prediction.tile_id == Tile.id) & (Prediction.model_id == model_id))
        .where(Tile.project_id == project.id)
    )
    kinds = [*[("int8", 0)] * 4, ("float8", 0), ("float8", 0), ("int8", 0)]
    parts = [read_columns(session, tiles.where(one), kinds) for one in _may_be_asked(session, project.id, model_id)]
    ids, seen, images, audit, um_per_px, foreground, looks = (np.concatenate(some) for some in zip(*parts, strict=True))
    rows = session.execute(select(Image.id, Image.group_name).where(Image.project_id == project.id))
    groups = {row.id: row.group_name for row in rows}
    pool = Pool.of(
        tile_ids=ids,
        images=images,
        groups=[groups[image] for image in images.tolist()],
        audit=audit == 1,
        um_per_px=um_per_px,
        foreground=np.clip(foreground, 0.0, 1.0),
        looks=looks.view(np.uint64),
        regions=_regions(session, project, model_id, ids, seen),
    )
    return pool.with_bald(second_looks.bald_of(session, model_id))


_UNKNOWN: ColumnElement[float] = literal_column("'NaN'::double precision", Double)
_pixels = func.round(Tile.width_px / Tile.scale) * func.round(Tile.height_px / Tile.scale)
_background = func.coalesce(cast(Prediction.class_areas["0"].astext, Double), literal_column("0.0"))
# The share of a tile that is predicted as another class than the background, by the size of its picture.
_foreground: ColumnElement[Any] = literal_column("1.0", Double) - _background / func.greatest(
    _pixels, literal_column("1.0", Double), type_=Double
)


def _regions(
    session: Session, project: Project, model_id: int, tile_ids: NDArray[np.int64], prediction_ids: NDArray[np.int64]
) -> RegionColumns:
    """The model's of these predictions, each of the tile beside it, but those of audit tiles, of which nothing is used.
    Columns only: the outlines of a large pool's regions would fill the memory."""
    classes = projects.classes_of(project).count
    none = func.array_fill(cast(_UNKNOWN, REAL), array([literal_column(str(classes))]))
    of_train = (
        select(Prediction.id)
        .join(Tile, Tile.id == Prediction.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .where(Prediction.model_id == model_id, tile_split != "audit")
    )
    query = select(
        Region.id,
        # Whose tile it is, is told below: a join of all regions takes longer than to ask which are of one model.
        Region.prediction_id,
        Region.predicted_class,
        cast(Region.area_px, Double),
        Region.uncertainty,
        Region.margin,
        Region.impurity,
        Region.disagreement,
        Region.mean_confidence,
        func.coalesce(Region.perimeter_px, _UNKNOWN),
        # Lists of one length are read without looking at any; those of regions of earlier versions are empty.
        case((func.cardinality(Region.class_scores) == classes, Region.class_scores), else_=none),
    ).where(Region.prediction_id.in_(of_train))
    kinds = [*[("int8", 0)] * 3, *[("float8", 0)] * 7, ("float4", classes)]
    ids, seen, predicted, *figures, class_scores = read_columns(session, query, kinds)
    area, uncertainty, margin, impurity, disagreement, confidence, perimeter = figures
    asked, tiles = _tiles_of(seen, prediction_ids, tile_ids)
    columns = RegionColumns(
        ids=ids,
        tile_ids=tiles,
        area_px=area,
        uncertainty=uncertainty,
        margin=margin,
        impurity=impurity,
        disagreement=disagreement,
        mean_confidence=confidence,
        predicted_class=predicted,
        bald=np.full(len(ids), np.nan),
        perimeter_px=perimeter,
        class_scores=None if np.isnan(class_scores).all() else class_scores,
    )
    return columns if asked.all() else columns.take(np.flatnonzero(asked))


def _tiles_of(
    seen: NDArray[np.int64], prediction_ids: NDArray[np.int64], tile_ids: NDArray[np.int64]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which predictions are among the given ones, and the tile of each that is (of another: any)."""
    if len(prediction_ids) == 0:
        return np.zeros(len(seen), bool), np.zeros(len(seen), np.int64)
    order = np.argsort(prediction_ids)
    ascending = prediction_ids[order]
    place = np.minimum(np.searchsorted(ascending, seen), len(ascending) - 1)
    return ascending[place] == seen, tile_ids[order[place]]


def labelled(session: Session, project_id: int) -> Labelled:
    """Train tiles with a mask that counts, and the hashes of their pictures."""
    counts = select(Mask.id).where(Mask.tile_id == Tile.id, Mask.withdrawn_at.is_(None), Mask.reviewed_share > 0)
    rows = session.execute(
        select(Tile.id, Tile.look_hash)
        .join(Image, Image.id == Tile.image_id)
        .where(Tile.project_id == project_id, tile_split == "train", Tile.state == "ready", counts.exists())
    ).all()
    looks = np.array([0 if look is None else look for _, look in rows], np.int64)
    return Labelled(np.array([tile for tile, _ in rows], np.int64), looks.view(np.uint64))


def unranked(session: Session, project: Project) -> bool:
    """Whether a tile that the champion has seen is missing from the live order."""
    entry = (
        select(QueueEntry.id)
        .where(
            QueueEntry.project_id == project.id,
            QueueEntry.generation == project.queue_generation,
            QueueEntry.tile_id == Tile.id,
        )
        .exists()
    )
    query = (
        select(Tile.id)
        .join(Prediction, (Prediction.tile_id == Tile.id) & (Prediction.model_id == project.champion_id))
        .join(Image, Image.id == Tile.image_id)
        .where(Tile.project_id == project.id, ~entry)
        .limit(1)
    )
    conditions = _may_be_asked(session, project.id, project.champion_id)
    return any(session.scalar(query.where(one)) is not None for one in conditions)


def _may_be_asked(session: Session, project_id: int, model_id: int | None) -> list[ColumnElement[bool]]:
    """Conditions on tile and image, of which a tile fulfils one at most; they depend on whether a train tile is left
    that nobody labelled.

    Each is for a query of its own: in one joined by OR, the database looks up every tile in each table by itself.
    """
    usable = and_(Tile.state == "ready", Image.state == "ready")
    ready = and_(usable, ~answered(Tile.id))
    again = and_(usable, tile_split == "train", returns(Tile.id, model_id))
    masked = select(Mask.id).where(Mask.tile_id == Tile.id, Mask.withdrawn_at.is_(None))
    unlabelled = and_(ready, ~masked.exists())
    left = (
        select(Tile.id)
        .join(Image, Image.id == Tile.image_id)
        .where(Tile.project_id == project_id, tile_split == "train", unlabelled)
        .limit(1)
    )
    if session.scalar(left) is not None:
        return [unlabelled, again]
    only_imported = and_(masked.exists(), ~masked.where(Mask.origin != "imported").exists())
    return [unlabelled, again, and_(ready, tile_split == "train", only_imported)]
