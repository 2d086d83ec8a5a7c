"""One image as a whole: where its tiles lie, where the champion is in doubt, and what became of each tile."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.store import images, masks, projects
from backend.store.tables import Image, Model, Prediction, Project, QueueEntry, Region, Tile
from mpamatch.errors import NotFound

PER_PAGE = 100
MOST_OUTLINES = 300


@dataclass(frozen=True)
class TileThere:
    """A tile of the image, its box in level-0 pixels. ``shown``: the champion's answer may be seen here.

    ``doubt``: the share of its pixels that lie in regions, and how many these are; None where it is not shown.
    ``reviewed``: the share that its mask says something of; None without one. ``rank`` and ``state`` are those of its
    entry in the live order.
    """

    tile_id: int
    x_px: int
    y_px: int
    width_px: int
    height_px: int
    split: str
    artefact: bool
    shown: bool
    doubt: float | None
    regions: int | None
    reviewed: float | None
    rank: int | None
    state: str | None


@dataclass(frozen=True)
class Outline:
    """A region. ``rings`` in pixels of its tile, each ``scale`` level-0 pixels wide, whose corner is at x, y."""

    x_px: int
    y_px: int
    scale: float
    rings: tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class SeenImage:
    """Tiles: the next to be asked for first, then those without a place. ``outlines``: where there is most doubt, of
    ``regions`` in all."""

    image_id: int
    name: str
    group: str
    state: str
    problem: str | None
    width_px: int
    height_px: int
    um_per_px: float | None
    champion: str
    tiles: tuple[TileThere, ...]
    outlines: tuple[Outline, ...]
    regions: int


def see_image(session: Session, project: Project, image_id: int) -> SeenImage:
    """Raises NotFound, for an image of another project too."""
    image = session.get(Image, image_id) if 0 < image_id < 1 << 63 else None
    if image is None or image.project_id != project.id:
        raise NotFound(f"image {image_id}", f"is not in project {project.key}", "see the project's queue")
    champion = projects.champion(session, project)
    tiles = {tile.id: tile for tile in images.tiles_of(session, image.id)}
    reviewed = masks.reviewed_shares(session, list(tiles))
    shown = _shown(session, champion, {t.id: t.split or image.split for t in tiles.values()}, reviewed)
    found = _doubt(session, shown)
    places = _places(session, project, list(tiles))
    there = [
        TileThere(
            tile_id=tile.id,
            x_px=tile.x_px,
            y_px=tile.y_px,
            width_px=tile.width_px,
            height_px=tile.height_px,
            split=tile.split or image.split,
            artefact=tile.state == "artefact",
            shown=tile.id in shown,
            doubt=found[tile.id][1] / (tile.size_px[0] * tile.size_px[1]) if tile.id in shown else None,
            regions=found[tile.id][0] if tile.id in shown else None,
            reviewed=reviewed.get(tile.id),
            rank=places[tile.id][0] if tile.id in places else None,
            state=places[tile.id][1] if tile.id in places else None,
        )
        for tile in tiles.values()
    ]
    return SeenImage(
        image_id=image.id,
        name=images.shown_name(image),
        group=image.group_name,
        state=image.state,
        problem=images.shown_problem(image),
        width_px=image.width_px,
        height_px=image.height_px,
        um_per_px=image.um_per_px,
        champion=champion.version,
        tiles=tuple(sorted(there, key=lambda one: (one.rank is None, one.rank or 0, one.tile_id))),
        outlines=_outlines(session, shown, tiles),
        regions=sum(count for count, _ in found.values()),
    )


def _shown(session: Session, champion: Model, splits: dict[int, str], reviewed: dict[int, float]) -> dict[int, int]:
    """By tile the champion's prediction that may be seen: not of a blank one, nor of an audit tile without a mask,
    where it would bend the yardstick."""
    if champion.kind == "blank":
        return {}
    seen = [tile_id for tile_id, split in splits.items() if split != "audit" or tile_id in reviewed]
    query = select(Prediction.tile_id, Prediction.id).where(
        Prediction.model_id == champion.id, Prediction.tile_id.in_(seen)
    )
    return {row.tile_id: row.id for row in session.execute(query)}


def _doubt(session: Session, shown: dict[int, int]) -> dict[int, tuple[int, int]]:
    """By tile: how many regions, and their pixels."""
    rows = session.execute(
        select(Region.prediction_id, func.count(), func.sum(Region.area_px))
        .where(Region.prediction_id.in_(shown.values()))
        .group_by(Region.prediction_id)
    )
    by_prediction = {row[0]: (int(row[1]), int(row[2])) for row in rows}
    return {tile_id: by_prediction.get(prediction_id, (0, 0)) for tile_id, prediction_id in shown.items()}


def _places(session: Session, project: Project, tile_ids: list[int]) -> dict[int, tuple[int, str]]:
    rows = session.execute(
        select(QueueEntry.tile_id, QueueEntry.rank, QueueEntry.state).where(
            QueueEntry.project_id == project.id,
            QueueEntry.generation == project.queue_generation,
            QueueEntry.tile_id.in_(tile_ids),
        )
    )
    return {tile_id: (rank, state) for tile_id, rank, state in rows}


def _outlines(session: Session, shown: dict[int, int], tiles: dict[int, Tile]) -> tuple[Outline, ...]:
    """Where there is most doubt in all; a slide has more regions than a page can draw."""
    of = {prediction_id: tiles[tile_id] for tile_id, prediction_id in shown.items()}
    regions = session.scalars(
        select(Region)
        .where(Region.prediction_id.in_(of))
        .order_by((Region.area_px * Region.uncertainty).desc(), Region.id)
        .limit(MOST_OUTLINES)
    )
    return tuple(
        Outline(
            x_px=of[region.prediction_id].x_px,
            y_px=of[region.prediction_id].y_px,
            scale=of[region.prediction_id].scale,
            rings=tuple(tuple((float(x), float(y)) for x, y in ring) for ring in region.polygon),
        )
        for region in regions
    )
