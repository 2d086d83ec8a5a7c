"""An oracle annotator for demonstrations: labels tasks in Label Studio, through its own API, from known masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.results import class_map_to_result, scope_item
from backend.store import models, projects
from backend.store.blobs import BlobStore
from backend.store.images import tile_split
from backend.store.predictions import by_version
from backend.store.queue import Listed
from backend.store.tables import Image, Project, Tile
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.masks import resample
from mpamatch.domain.metrics import confusion, mean_dice
from mpamatch.errors import NotFound
from mpamatch.files.rasters import decode_raster

LEAD_TIME_S = 12.0


@dataclass(frozen=True)
class KnownTile:
    """A tile whose true mask can be read."""

    tile_id: int
    split: str
    read: Callable[[], np.ndarray]


def known_tiles(
    session: Session, project: Project, readers: Mapping[Path, Callable[[], np.ndarray]]
) -> dict[int, KnownTile]:
    """The tiles of a project by id, with the part of their image's true mask. Raises NotFound for an unknown image."""
    known: dict[int, KnownTile] = {}
    rows = session.execute(
        select(Tile, Image.uri, tile_split).join(Image, Image.id == Tile.image_id).where(Tile.project_id == project.id)
    )
    for tile, uri, split in rows:
        reader = readers.get(Path(uri))
        if reader is None:
            raise NotFound(uri, "has no known mask", "use a data set with masks")
        known[tile.id] = KnownTile(tile.id, split, _cutting(reader, tile))
    return known


def _cutting(reader: Callable[[], np.ndarray], tile: Tile) -> Callable[[], np.ndarray]:
    rows = slice(tile.y_px, tile.y_px + tile.height_px)
    columns = slice(tile.x_px, tile.x_px + tile.width_px)
    return lambda: resample(reader()[rows, columns], *tile.size_px)


def choose(listed: Sequence[Listed], count: int, every: int = 4) -> list[Listed]:
    """The first tasks of the head in its order, every fourth of them an audit tile as far as there are any."""
    shown = [entry for entry in listed if entry.ls_task_id is not None]
    audit = [entry for entry in shown if entry.stratum == "audit"][: count // every]
    others = [entry for entry in shown if entry.stratum != "audit"][: count - len(audit)]
    return sorted([*audit, *others], key=lambda entry: entry.rank)


def label(client: LabelStudioClient, entry: Listed, tile: KnownTile, classes: ClassSet) -> None:
    """Submit the whole true mask of one task, as a person would."""
    assert entry.ls_task_id is not None
    result = [*class_map_to_result(tile.read(), classes), scope_item("whole tile")]
    client.create_annotation(entry.ls_task_id, result, LEAD_TIME_S)


def audit_dice(
    session: Session, blobs: BlobStore, project: Project, version: str, tiles: Mapping[int, KnownTile]
) -> float | None:
    """Pooled mean Dice of a version over every audit tile; None while it has not seen them all."""
    audit = sorted(t.tile_id for t in tiles.values() if t.split == "audit")
    model = models.by_version(session, project.id, version)
    found = by_version(session, project.id, model.version, audit)
    if len(found) < len(audit) or not audit:
        return None
    count = projects.classes_of(project).count
    total = sum(confusion(decode_raster(blobs.get(found[t].class_blob)), tiles[t].read(), count) for t in audit)
    return mean_dice(np.asarray(total))
