"""Why one tile was chosen: its place, its regions with their figures, what people made of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.store import images, masks, predictions, projects, queue, second_looks, tasks
from backend.store.tables import Annotation, Effort, Image, Mask, Model, Project, QueueEntry, Region, Tile
from mpamatch.domain.breakdown import Breakdown, breakdown
from mpamatch.domain.reasons import reasons
from mpamatch.errors import NotFound


@dataclass(frozen=True)
class SeenRegion:
    """One region of the champion, numbered as in the picture. ``rings`` in pixels of the tile, the outer one first.

    ``bald`` is None where no second look was taken.
    """

    number: int
    x_px: int
    y_px: int
    rings: tuple[tuple[tuple[float, float], ...], ...]
    area_px: int
    confidence: float
    uncertainty: float
    margin: float
    impurity: float
    disagreement: float
    predicted_class: str
    bald: float | None


@dataclass(frozen=True)
class Place:
    """The tile's entry in the live order or, when it is ``live`` no more, the one that was kept when it was answered.

    ``size`` counts the entries of the live order. ``by``: the model whose regions were ranked; ``made_at``: when.
    ``class_name``: for which class it was chosen. ``breakdown`` is None where no region speaks for it.
    """

    live: bool
    generation: int
    made_at: datetime
    by: str
    strategy: str
    rank: int
    size: int
    state: str
    stratum: str
    score: float
    noise: float
    propensity: float
    round: int
    class_name: str | None
    reasons: tuple[str, ...]
    breakdown: Breakdown | None


@dataclass(frozen=True)
class SeenMask:
    """One version of the tile's mask; ``counts`` says whether it is the one in use."""

    version: int
    origin: str
    reviewed_share: float
    created_at: datetime
    withdrawn: bool
    counts: bool
    annotation: int | None


@dataclass(frozen=True)
class SeenAnnotation:
    """One annotation: ``number`` is Label Studio's, None for an answer to the queue, which has a ``holder``.

    ``clicks`` that its changes are worth; None until counted.
    """

    row: int
    number: int | None
    annotator: int | None
    holder: str | None
    state: str
    seconds: float | None
    clicks: float | None
    shown_version: str | None
    updated_at: datetime
    problem: str | None


@dataclass(frozen=True)
class SeenTile:
    """A tile with all that explains it. ``blind``: an audit tile without a mask, of which no suggestion is shown.

    ``whole``: its mask only came with the images, so it is gone over as a whole: its regions say where the champion is
    unsure, and have no boxes in Label Studio.
    """

    tile_id: int
    image_id: int
    image: str
    group: str
    split: str
    state: str
    image_state: str
    image_problem: str | None
    x_px: int
    y_px: int
    width_px: int
    height_px: int
    place: Place | None
    regions: tuple[SeenRegion, ...]
    blind: bool
    whole: bool
    champion: str
    champion_kind: str
    predicted: bool
    prediction_shown: bool
    masks: tuple[SeenMask, ...]
    annotations: tuple[SeenAnnotation, ...]
    ls_task_id: int | None


def get_tile(session: Session, project: Project, tile_id: int) -> Tile:
    """A tile of this project. Raises NotFound, for a tile of another project too."""
    tile = session.get(Tile, tile_id) if 0 < tile_id < 1 << 63 else None
    if tile is None or tile.project_id != project.id:
        raise NotFound(f"tile {tile_id}", f"is not in project {project.key}", "see the project's queue")
    return tile


def see_tile(session: Session, project: Project, tile_id: int) -> SeenTile:
    """Raises NotFound."""
    tile = get_tile(session, project, tile_id)
    image = session.get_one(Image, tile.image_id)
    champion = projects.champion(session, project)
    prediction = predictions.of(session, tile.id, champion.id)
    entry = queue.asked(session, project, tile.id)
    blind = is_blind(session, tile, tile.split or image.split)
    shown = prediction is not None and champion.kind != "blank" and not blind
    found = predictions.regions_of(session, [prediction.id]).get(prediction.id, []) if shown and prediction else []
    bald = second_looks.bald_of(session, champion.id, [tile.id]).get(tile.id) if shown else None
    task = tasks.of_tile(session, tile.id)
    names = projects.classes_of(project).names
    return SeenTile(
        tile_id=tile.id,
        image_id=image.id,
        image=images.shown_name(image),
        group=image.group_name,
        split=tile.split or image.split,
        state=tile.state,
        image_state=image.state,
        image_problem=images.shown_problem(image),
        x_px=tile.x_px,
        y_px=tile.y_px,
        width_px=tile.size_px[0],
        height_px=tile.size_px[1],
        place=None if entry is None else _place(session, project, entry, names),
        regions=_regions(found, entry, bald, names),
        blind=blind,
        whole=bool(masks.only_imported(session, [tile.id])),
        champion=champion.version,
        champion_kind=champion.kind,
        predicted=prediction is not None,
        prediction_shown=shown,
        masks=_masks(session, tile.id),
        annotations=_annotations(session, tile.id),
        ls_task_id=None if task is None else task.ls_task_id,
    )


def is_blind(session: Session, tile: Tile, split: str) -> bool:
    """Whether showing a suggestion would bend the yardstick: an audit tile that no mask has settled yet."""
    return split == "audit" and counting_mask(session, tile.id) is None


def counting_mask(session: Session, tile_id: int) -> Mask | None:
    """The newest version that is not withdrawn."""
    return masks.newest_counting(session, tile_id)


def _regions(
    regions: list[Region], entry: QueueEntry | None, bald: list[float] | None, names: tuple[str, ...]
) -> tuple[SeenRegion, ...]:
    """As the ranking ordered them; those of a newer model, which it has not seen, as they were stored."""
    places = {} if entry is None else {region_id: n for n, region_id in enumerate(entry.region_ids)}
    gains = [None] * len(regions) if bald is None or len(bald) != len(regions) else bald  # in the order of the ids
    ordered = sorted(zip(regions, gains, strict=True), key=lambda one: (places.get(one[0].id, len(places)), one[0].id))
    return tuple(_region(number, region, gain, names) for number, (region, gain) in enumerate(ordered, start=1))


def _place(session: Session, project: Project, entry: QueueEntry, names: tuple[str, ...]) -> Place:
    record, ranking = entry.record, entry.ranking
    return Place(
        live=entry.generation == project.queue_generation,
        generation=entry.generation,
        made_at=ranking.made_at,
        by=session.get_one(Model, ranking.model_id).version,
        strategy=record.ranked_by.policy.strategy,
        rank=entry.rank,
        size=queue.size(session, project),
        state=entry.state,
        stratum=entry.stratum,
        score=entry.score,
        noise=entry.noise,
        propensity=entry.propensity,
        round=entry.round,
        class_name=None if entry.class_id is None else _class_name(entry.class_id, names),
        reasons=reasons(record),
        breakdown=breakdown(record),
    )


def _class_name(class_id: int, names: tuple[str, ...]) -> str:
    return names[class_id] if class_id < len(names) else "unknown"


def _region(number: int, region: Region, bald: float | None, names: tuple[str, ...]) -> SeenRegion:
    return SeenRegion(
        number=number,
        x_px=region.x_px,
        y_px=region.y_px,
        rings=tuple(tuple((float(x), float(y)) for x, y in ring) for ring in region.polygon),
        area_px=region.area_px,
        confidence=region.mean_confidence,
        uncertainty=region.uncertainty,
        margin=region.margin,
        impurity=region.impurity,
        disagreement=region.disagreement,
        predicted_class=_class_name(region.predicted_class, names),
        bald=bald,
    )


def _masks(session: Session, tile_id: int) -> tuple[SeenMask, ...]:
    rows = session.scalars(select(Mask).where(Mask.tile_id == tile_id).order_by(Mask.version.desc())).all()
    counting = next((m.id for m in rows if m.withdrawn_at is None), None)
    return tuple(
        SeenMask(
            version=m.version,
            origin=m.origin,
            reviewed_share=m.reviewed_share,
            created_at=m.created_at,
            withdrawn=m.withdrawn_at is not None,
            counts=m.id == counting,
            annotation=m.annotation_id,
        )
        for m in rows
    )


def _annotations(session: Session, tile_id: int) -> tuple[SeenAnnotation, ...]:
    newest = (
        select(Mask.annotation_id, func.max(Mask.id).label("mask_id"))
        .where(Mask.tile_id == tile_id, Mask.withdrawn_at.is_(None))
        .group_by(Mask.annotation_id)
        .subquery()
    )
    rows = session.execute(
        select(Annotation, Effort.clicks)
        .outerjoin(newest, newest.c.annotation_id == Annotation.id)
        .outerjoin(Effort, Effort.mask_id == newest.c.mask_id)
        .where(Annotation.tile_id == tile_id)
        .order_by(Annotation.updated_at.desc())
    )
    return tuple(
        SeenAnnotation(
            row=a.id,
            number=a.ls_annotation_id,
            annotator=a.annotator,
            holder=a.holder,
            state=a.state,
            seconds=a.lead_time_s,
            clicks=clicks,
            shown_version=a.shown_version,
            updated_at=a.updated_at,
            problem=a.problem,
        )
        for a, clicks in rows
    )
