"""The ranked queue: generations written whole and flipped in one transaction; entries closed as labels arrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, func, insert, or_, select, update
from sqlalchemy.orm import Session

from backend.store import leases
from backend.store.images import tile_split
from backend.store.tables import Annotation, Image, Mask, Prediction, Project, QueueEntry, Region, Task, Tile
from mpamatch.domain.ranking import RankedTile, RegionFacts, TileFacts

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


def candidates(session: Session, project_id: int, model_id: int) -> list[TileFacts]:
    """Every tile that may be asked for: ready, predicted by the model, not labelled, not skipped; with its regions.

    Once no train tile is left without a mask, those whose mask only came with the images are asked for, to review.
    """
    rows = session.execute(
        select(Tile.id, Tile.image_id, Image.group_name, tile_split, Prediction.id)
        .join(Image, Image.id == Tile.image_id)
        .join(Prediction, (Prediction.tile_id == Tile.id) & (Prediction.model_id == model_id))
        .where(Tile.project_id == project_id, _may_be_asked(session, project_id))
        .order_by(Tile.id)
    ).all()
    regions = _regions(session, project_id, model_id)
    return [
        TileFacts(tile_id=tile, image_id=image, group=group, split=split, regions=tuple(regions.get(prediction, ())))
        for tile, image, group, split, prediction in rows
    ]


def _may_be_asked(session: Session, project_id: int) -> ColumnElement[bool]:
    """The condition on tile and image; it depends on whether a train tile is left that nobody labelled."""
    ready = and_(Tile.state == "ready", Image.state == "ready", ~_answered(Tile.id))
    masked = select(Mask.id).where(Mask.tile_id == Tile.id, Mask.withdrawn_at.is_(None))
    unlabelled = and_(ready, ~masked.exists())
    left = (
        select(Tile.id)
        .join(Image, Image.id == Tile.image_id)
        .where(Tile.project_id == project_id, tile_split == "train", unlabelled)
        .limit(1)
    )
    if session.scalar(left) is not None:
        return unlabelled
    return or_(unlabelled, and_(ready, tile_split == "train", ~masked.where(Mask.origin != "imported").exists()))


def _answered(tile_id: Any) -> ColumnElement[bool]:
    states = ("present", "skipped", "quarantined")
    return select(Annotation.id).where(Annotation.tile_id == tile_id, Annotation.state.in_(states)).exists()


def _regions(session: Session, project_id: int, model_id: int) -> dict[int, list[RegionFacts]]:
    """By prediction. Columns only: the outlines of a large pool's regions would fill the memory."""
    query = (
        select(
            Region.prediction_id,
            Region.id,
            Region.area_px,
            Region.uncertainty,
            Region.margin,
            Region.impurity,
            Region.disagreement,
            Region.predicted_class,
            Region.mean_confidence,
        )
        .join(Prediction, Prediction.id == Region.prediction_id)
        .join(Tile, Tile.id == Prediction.tile_id)
        .where(Prediction.model_id == model_id, Tile.project_id == project_id, Tile.state == "ready")
        .order_by(Region.id)
    )
    found: dict[int, list[RegionFacts]] = {}
    for prediction, region, area, uncertainty, margin, impurity, disagreement, predicted, confidence in session.execute(
        query
    ):
        found.setdefault(prediction, []).append(
            RegionFacts(
                region_id=region,
                area_px=area,
                uncertainty=uncertainty,
                margin=margin,
                impurity=impurity,
                disagreement=disagreement,
                predicted_class=predicted,
                mean_confidence=confidence,
            )
        )
    return found


def write_generation(
    session: Session,
    project: Project,
    ranked: Sequence[RankedTile],
    *,
    model_id: int,
    round_number: int,
    config_hash: str,
) -> int:
    """Write the next generation, take over what Label Studio holds, flip, and drop the one before the last."""
    generation = project.queue_generation + 1
    session.execute(delete(QueueEntry).where(QueueEntry.project_id == project.id, QueueEntry.generation >= generation))
    held = set(session.scalars(select(Task.tile_id).where(Task.project_id == project.id, Task.state == "live")))
    rows: list[dict[str, Any]] = [
        {
            "project_id": project.id,
            "generation": generation,
            "rank": entry.rank,
            "tile_id": entry.tile_id,
            "region_ids": list(entry.region_ids),
            "score": entry.score,
            "noise": entry.noise,
            "stratum": entry.stratum,
            "propensity": entry.propensity,
            "round": round_number,
            "config_hash": config_hash,
            "reasons": list(entry.reasons),
            "state": "leased" if entry.tile_id in held else "open",
            "lease_holder": IN_LABEL_STUDIO if entry.tile_id in held else None,
        }
        for entry in ranked
    ]
    for start in range(0, len(rows), 1000):
        session.execute(insert(QueueEntry), rows[start : start + 1000])
    # From here to the flip nobody claims or closes; what was held, left out or labelled meanwhile comes along.
    live = leases.hold_order(session, project.id, to_change=True)
    leases.take_over(session, project.id, before=live, after=generation)
    answered = _answered(QueueEntry.tile_id)
    session.execute(
        update(QueueEntry)
        .where(QueueEntry.project_id == project.id, QueueEntry.generation == generation, answered)
        .values(state="done", lease_holder=None, lease_until=None)
    )
    project.queue_generation = generation
    project.ranked_model_id = model_id
    session.execute(
        delete(QueueEntry).where(QueueEntry.project_id == project.id, QueueEntry.generation < generation - 1)
    )
    return generation


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
            QueueEntry.project_id == project.id,
            QueueEntry.generation == project.queue_generation,
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
        .where(Tile.project_id == project.id, ~entry, _may_be_asked(session, project.id))
        .limit(1)
    )
    return session.scalar(query) is not None


def listing(session: Session, project: Project, n: int) -> list[Listed]:
    """The queue from its first waiting entry, in the order in which Label Studio serves it."""
    rows = session.execute(
        select(QueueEntry, Image.uri, tile_split, Task.ls_task_id)
        .join(Tile, Tile.id == QueueEntry.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .outerjoin(Task, (Task.tile_id == Tile.id) & (Task.state == "live"))
        .where(
            Image.state == "ready",
            QueueEntry.project_id == project.id,
            QueueEntry.generation == project.queue_generation,
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
