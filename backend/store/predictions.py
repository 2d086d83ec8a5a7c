"""Predictions and their regions: what is missing, who makes it, and keeping it once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ARRAY, BigInteger, any_, cast, delete, func, literal, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend.store.blobs import BlobStore
from backend.store.images import tile_split
from backend.store.tables import Image, Mask, Model, Prediction, Region, SecondLook, Task, Tile
from mpamatch.errors import BadInput, NotFound
from mpamatch.files.embeddings import Embeddings, decode_embeddings

if TYPE_CHECKING:  # the API stores and reads predictions, and needs none of what finds regions
    from mpamatch.domain.regions import Region as FoundRegion

LOG = logging.getLogger("mpamatch.predictions")


@dataclass(frozen=True)
class DuePrediction:
    """One tile that one model has not seen yet."""

    tile_id: int
    model_id: int
    png_blob: str
    model_kind: str
    model_blob: str | None


# Tiles of the champion, and what a judgement needs: every labelled audit tile by the candidate and by each champion
# so far; nothing of an image that was set aside. Train tiles that were marked as artefacts are among the champion's:
# what looks like them is told by its embeddings. Order: what someone has open, what Label Studio shows, judgements, the
# rest of the pool.
_DUE = text(
    """
    SELECT t.id, d.model_id, t.png_blob, m.kind, m.blob
    FROM tile t
    JOIN (
        SELECT t.id AS tile_id, p.champion_id AS model_id, 2 AS urgency
        FROM tile t JOIN project p ON p.id = t.project_id JOIN image i ON i.id = t.image_id
        WHERE (t.state = 'ready' OR coalesce(t.split, i.split) = 'train')
          AND i.state = 'ready' AND p.champion_id IS NOT NULL
        UNION ALL
        SELECT DISTINCT t.id, m.id, 1
        FROM run r
        JOIN model m ON m.project_id = r.project_id
             AND (m.run_id = r.id OR m.state IN ('champion', 'retired'))
        JOIN image i ON i.project_id = r.project_id AND i.state = 'ready'
        JOIN tile t ON t.image_id = i.id AND t.state = 'ready' AND coalesce(t.split, i.split) = 'audit'
        JOIN mask k ON k.tile_id = t.id AND k.withdrawn_at IS NULL AND k.reviewed_share > 0
        WHERE r.state = 'judging'
    ) d ON d.tile_id = t.id
    JOIN model m ON m.id = d.model_id
    WHERE NOT EXISTS (SELECT 1 FROM prediction q WHERE q.tile_id = t.id AND q.model_id = d.model_id)
      AND (t.lease_until IS NULL OR t.lease_until < :now)
    ORDER BY t.wanted_at DESC NULLS LAST,
             CASE WHEN EXISTS (SELECT 1 FROM task k WHERE k.tile_id = t.id AND k.state = 'live')
                  THEN 0 ELSE d.urgency END,
             d.model_id, t.id
    LIMIT :limit
    FOR UPDATE OF t SKIP LOCKED
    """
)


def claim_due(session: Session, *, now: datetime, holder: str, lease_s: float, limit: int) -> list[DuePrediction]:
    """Take a timed claim on the most urgent missing predictions; two workers never take the same tile."""
    due = [DuePrediction(*row) for row in session.execute(_DUE, {"now": now, "limit": limit})]
    session.execute(
        update(Tile)
        .where(Tile.id.in_([d.tile_id for d in due]))
        .values(lease_holder=holder, lease_until=now + timedelta(seconds=lease_s))
    )
    return due


def any_due(session: Session, *, now: datetime) -> bool:
    """Whether a prediction is missing that nobody is making."""
    return session.execute(_DUE, {"now": now, "limit": 1}).first() is not None


def release_dead(session: Session, *, now: datetime, alive: Callable[[str], bool]) -> int:
    """End the claims of holders that are known to be dead."""
    holders = session.scalars(select(Tile.lease_holder).where(Tile.lease_until > now).distinct()).all()
    dead = [h for h in holders if h is not None and not alive(h)]
    if dead:
        session.execute(update(Tile).where(Tile.lease_holder.in_(dead)).values(lease_holder=None, lease_until=None))
    return len(dead)


def release(session: Session, tile_ids: Sequence[int], *, holder: str) -> None:
    """Give back claims that are still ours."""
    session.execute(
        update(Tile)
        .where(Tile.id.in_(tile_ids), Tile.lease_holder == holder)
        .values(lease_holder=None, lease_until=None)
    )


def keep(
    session: Session,
    *,
    tile_id: int,
    model_id: int,
    class_blob: str,
    confidence_blob: str,
    class_areas: Mapping[str, int],
    regions: Sequence[FoundRegion],
    embeddings_blob: str | None = None,
    known_mask_id: int | None = None,
) -> bool:
    """Store one prediction with its regions; False when it is here already (a job may run twice).

    Regions get their ids in the order given, which is that of the rows of their embeddings.
    """
    prediction_id = session.scalar(
        insert(Prediction)
        .values(
            tile_id=tile_id,
            model_id=model_id,
            class_blob=class_blob,
            confidence_blob=confidence_blob,
            embeddings_blob=embeddings_blob,
            class_areas=dict(class_areas),
            known_mask_id=known_mask_id,
        )
        .on_conflict_do_nothing()
        .returning(Prediction.id)
    )
    if prediction_id is None:
        return False
    session.add_all(
        Region(
            prediction_id=prediction_id,
            x_px=r.box.x_px,
            y_px=r.box.y_px,
            width_px=r.box.width_px,
            height_px=r.box.height_px,
            polygon=[[list(point) for point in ring] for ring in r.rings],
            area_px=r.area_px,
            uncertainty=r.uncertainty,
            margin=r.margin,
            impurity=r.impurity,
            disagreement=r.disagreement,
            mean_confidence=r.mean_confidence,
            predicted_class=r.predicted_class,
            class_scores=list(r.class_scores),
            perimeter_px=r.perimeter_px,
        )
        for r in regions
    )
    return True


def forget(session: Session, prediction_id: int) -> None:
    """Drop a prediction whose rasters are lost, with its regions, so that it is made again; masks forget its number."""
    session.execute(update(Mask).where(Mask.prediction_id == prediction_id).values(prediction_id=None))
    session.execute(delete(SecondLook).where(SecondLook.prediction_id == prediction_id))
    session.execute(delete(Region).where(Region.prediction_id == prediction_id))
    session.execute(delete(Prediction).where(Prediction.id == prediction_id))


def of(session: Session, tile_id: int, model_id: int) -> Prediction | None:
    return session.scalars(
        select(Prediction).where(Prediction.tile_id == tile_id, Prediction.model_id == model_id)
    ).one_or_none()


def by_version(session: Session, project_id: int, version: str, tile_ids: Sequence[int]) -> dict[int, Prediction]:
    """Stored predictions of one model version, by tile id."""
    rows = session.scalars(
        select(Prediction)
        .join(Model, Model.id == Prediction.model_id)
        .where(Model.project_id == project_id, Model.version == version, Prediction.tile_id.in_(tile_ids))
    )
    return {p.tile_id: p for p in rows}


def missing_for(session: Session, project_id: int, model_id: int, *, live_tasks_only: bool) -> int:
    """How many tiles (or tiles shown in Label Studio) the model has not seen: ready ones, and train tiles that were
    marked as artefacts."""
    seen = select(Prediction.id).where(Prediction.tile_id == Tile.id, Prediction.model_id == model_id).exists()
    query = (
        select(func.count())
        .select_from(Tile)
        .join(Image, Image.id == Tile.image_id)
        .where(
            Tile.project_id == project_id,
            or_(Tile.state == "ready", tile_split == "train"),
            Image.state == "ready",
            ~seen,
        )
    )
    if live_tasks_only:
        query = query.where(select(Task.id).where(Task.tile_id == Tile.id, Task.state == "live").exists())
    return session.scalar(query) or 0


def seen_by(session: Session, project_id: int, model_id: int) -> int:
    """How many ready tiles the model has seen."""
    query = (
        select(func.count())
        .select_from(Tile)
        .join(Image, Image.id == Tile.image_id)
        .join(Prediction, (Prediction.tile_id == Tile.id) & (Prediction.model_id == model_id))
        .where(Tile.project_id == project_id, Tile.state == "ready", Image.state == "ready")
    )
    return session.scalar(query) or 0


def regions_of(session: Session, prediction_ids: Sequence[int]) -> dict[int, list[Region]]:
    """The regions of some predictions, by prediction."""
    found: dict[int, list[Region]] = {}
    for region in session.scalars(select(Region).where(Region.prediction_id.in_(prediction_ids)).order_by(Region.id)):
        found.setdefault(region.prediction_id, []).append(region)
    return found


def embedding_blobs(session: Session, model_id: int, tile_ids: Sequence[int]) -> dict[int, str]:
    """By tile: where one model's embeddings of it lie, for those of some tiles that have any."""
    # One parameter, however many tiles, and one text: the driver takes as long for each number of a list as for a row.
    wanted = any_(cast(literal("{" + ",".join(map(str, tile_ids)) + "}"), ARRAY(BigInteger)))
    rows = session.execute(
        select(Prediction.tile_id, Prediction.embeddings_blob).where(
            Prediction.model_id == model_id, Prediction.tile_id == wanted, Prediction.embeddings_blob.is_not(None)
        )
    )
    return {tile_id: str(blob) for tile_id, blob in rows}


def embeddings_of(blobs: BlobStore, named: Mapping[int, str]) -> Iterator[tuple[int, Embeddings]]:
    """Tile by tile what :func:`embedding_blobs` names, read when it is asked for: float16 (1 + R, D) of unit length.

    Row 0 is the whole tile's, the others are its regions' in the order of their ids. A blob that is lost or damaged is
    left out and logged: what it would have told is only how alike tiles are. Raises Unavailable.
    """
    for tile_id, blob in sorted(named.items()):
        try:
            yield tile_id, decode_embeddings(blobs.get(blob))
        except (BadInput, NotFound) as error:
            LOG.warning("tile=%s embeddings left out: %s", tile_id, error)
