"""Why one tile was chosen: its place, its regions with their figures, what people made of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.store import images, masks, predictions, projects, queue, tasks
from backend.store.tables import Annotation, Image, Mask, Project, QueueEntry, Region, Tile
from mpamatch.errors import NotFound


@dataclass(frozen=True)
class SeenRegion:
    """One region of the champion, numbered as in the picture. ``rings`` in pixels of the tile, the outer one first."""

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


@dataclass(frozen=True)
class Place:
    """The tile's entry in the live order. ``waiting`` counts all entries that wait."""

    rank: int
    size: int
    state: str
    stratum: str
    score: float
    noise: float
    propensity: float
    round: int
    reasons: tuple[str, ...]


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
    """One annotation as last read from Label Studio."""

    number: int
    annotator: int | None
    state: str
    seconds: float | None
    shown_version: str | None
    updated_at: datetime
    problem: str | None


@dataclass(frozen=True)
class SeenTile:
    """A tile with all that explains it. ``blind``: an audit tile without a mask, of which no suggestion is shown."""

    tile_id: int
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
    entry = queue.of_tiles(session, project, [tile.id]).get(tile.id)
    blind = is_blind(session, tile, tile.split or image.split)
    shown = prediction is not None and champion.kind != "blank" and not blind
    found = predictions.regions_of(session, [prediction.id]).get(prediction.id, []) if shown and prediction else []
    task = tasks.of_tile(session, tile.id)
    names = projects.classes_of(project).names
    return SeenTile(
        tile_id=tile.id,
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
        place=None if entry is None else _place(entry, queue.size(session, project)),
        regions=tuple(_region(n, r, names) for n, r in enumerate(_in_order(found, entry), start=1)),
        blind=blind,
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


def _in_order(regions: list[Region], entry: QueueEntry | None) -> list[Region]:
    """As the ranking ordered them; those of a newer model, which it has not seen, as they were stored."""
    places = {} if entry is None else {region_id: n for n, region_id in enumerate(entry.region_ids)}
    return sorted(regions, key=lambda r: (places.get(r.id, len(places)), r.id))


def _place(entry: QueueEntry, size: int) -> Place:
    return Place(
        rank=entry.rank,
        size=size,
        state=entry.state,
        stratum=entry.stratum,
        score=entry.score,
        noise=entry.noise,
        propensity=entry.propensity,
        round=entry.round,
        reasons=tuple(entry.reasons),
    )


def _region(number: int, region: Region, names: tuple[str, ...]) -> SeenRegion:
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
        predicted_class=names[region.predicted_class] if region.predicted_class < len(names) else "unknown",
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
    rows = session.scalars(
        select(Annotation).where(Annotation.tile_id == tile_id).order_by(Annotation.updated_at.desc())
    )
    return tuple(
        SeenAnnotation(
            number=a.ls_annotation_id,
            annotator=a.annotator,
            state=a.state,
            seconds=a.lead_time_s,
            shown_version=a.shown_version,
            updated_at=a.updated_at,
            problem=a.problem,
        )
        for a in rows
    )
