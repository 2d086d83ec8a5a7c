"""Take images (and masks that exist already) into a project: hash, split by group, tile, render, keep.

One bad item is reported with its reason; the rest goes on. Registering the same content twice changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from backend.store import events, images, masks, projects
from backend.store.blobs import BlobFolder
from backend.store.sessions import Database
from backend.store.tables import Image, Tile
from mpamatch.domain.classes import IGNORE
from mpamatch.domain.splits import assign_splits
from mpamatch.domain.tiling import Box, tile_boxes, tissue_share
from mpamatch.errors import BadInput, MpamatchError
from mpamatch.files.images import encode_png, read_image
from mpamatch.files.masks import read_mask
from mpamatch.files.rasters import encode_raster

MIN_TISSUE_SHARE = 0.1


@dataclass(frozen=True)
class RegisterItem:
    """One image to register. ``split`` is given only where a published list decides it."""

    path: Path
    group: str
    mask: Path | None = None
    split: str | None = None
    um_per_px: float | None = None
    foreground: bool = False


@dataclass
class RegisterReport:
    """What a registration did, counted."""

    images: int = 0
    known: int = 0
    tiles: int = 0
    masks: int = 0
    problems: list[str] = field(default_factory=list)


def register(
    database: Database,
    blobs: BlobFolder,
    project_id: int,
    items: Sequence[RegisterItem],
    *,
    actor: str = "register",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RegisterReport:
    """Register every item; each is durable by itself, so a stop in the middle loses nothing and may be repeated."""
    report = RegisterReport()
    splits = _decide_splits(database, project_id, items)
    for done, item in enumerate(items, start=1):
        try:
            _register_one(database, blobs, project_id, item, splits[item.group], report, actor)
        except MpamatchError as error:
            report.problems.append(str(error))
        progress(done, len(items))
    return report


def _decide_splits(database: Database, project_id: int, items: Sequence[RegisterItem]) -> dict[str, str]:
    with database.transaction() as session:
        images.lock_registration(session, project_id)
        splits = images.known_splits(session, project_id)
    for item in items:
        if item.split is not None:
            splits.setdefault(item.group, item.split)
    new_groups = sorted({item.group for item in items} - set(splits))
    return {**splits, **assign_splits(splits, new_groups)}


def _register_one(
    database: Database,
    blobs: BlobFolder,
    project_id: int,
    item: RegisterItem,
    split: str,
    report: RegisterReport,
    actor: str,
) -> None:
    content = _content(item.path)
    sha256 = hashlib.sha256(content).hexdigest()
    with database.transaction() as session:
        known = images.by_hash(session, project_id, sha256)
        classes = projects.classes_of(projects.get(session, project_id))
        tiled = [] if known is None else list(images.tiles_of(session, known.id))
    if known is not None and known.state == "ready":
        report.known += 1
        if item.mask is not None:
            _import_masks(database, blobs, item, (known.width_px, known.height_px), tiled, classes.count, report, actor)
        return
    try:
        pixels = read_image(content)
    except MpamatchError as error:
        problem = BadInput(str(item.path), error.problem, error.remedy)
        _quarantine(database, project_id, item, sha256, split, str(problem))
        raise problem from error
    rows = _keep_tiles(database, blobs, project_id, item, sha256, split, pixels, actor)
    report.images += 1
    report.tiles += len(rows)
    if item.mask is not None:
        size = (pixels.shape[1], pixels.shape[0])
        _import_masks(database, blobs, item, size, rows, classes.count, report, actor)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInput(
            str(path), f"cannot be read ({error.strerror})", "check that it exists and may be read"
        ) from error


def _quarantine(database: Database, project_id: int, item: RegisterItem, sha256: str, split: str, problem: str) -> None:
    with database.transaction() as session:
        if images.by_hash(session, project_id, sha256) is not None:
            return
        session.add(
            Image(
                project_id=project_id,
                uri=str(item.path),
                sha256=sha256,
                width_px=0,
                height_px=0,
                group_name=item.group,
                split=split,
                state="quarantined",
                problem=problem,
            )
        )


def _keep_tiles(
    database: Database,
    blobs: BlobFolder,
    project_id: int,
    item: RegisterItem,
    sha256: str,
    split: str,
    pixels: np.ndarray,
    actor: str,
) -> list[Tile]:
    height_px, width_px = pixels.shape[:2]
    boxes = tile_boxes(width_px, height_px)
    # A picture that is one tile is taken whatever it shows; of a large one only where there is tissue.
    chosen = [(box, tissue_share(_cut(pixels, box))) for box in boxes]
    if len(boxes) > 1:
        chosen = [(box, share) for box, share in chosen if share >= MIN_TISSUE_SHARE]
    pngs = [blobs.put(encode_png(_cut(pixels, box))) for box, _ in chosen]
    with database.transaction() as session:
        image = images.by_hash(session, project_id, sha256)
        if image is None:
            image = Image(project_id=project_id, sha256=sha256)
            session.add(image)
        _fill(image, item, split, width_px, height_px)
        session.flush()
        kept = list(images.tiles_of(session, image.id))
        if kept:  # it was set aside after it was tiled; its pictures are whole again
            events.record(session, project_id=project_id, actor=actor, what="image mended", subject=f"image:{image.id}")
            return kept
        rows = [
            Tile(
                project_id=project_id,
                image_id=image.id,
                x_px=box.x_px,
                y_px=box.y_px,
                width_px=box.width_px,
                height_px=box.height_px,
                scale=1.0,
                tissue_share=share,
                png_blob=png,
            )
            for (box, share), png in zip(chosen, pngs, strict=True)
        ]
        session.add_all(rows)
        events.record(
            session,
            project_id=project_id,
            actor=actor,
            what="image registered",
            subject=f"image:{image.id}",
            after={"tiles": len(rows), "split": split},
        )
    return rows


def _fill(image: Image, item: RegisterItem, split: str, width_px: int, height_px: int) -> None:
    image.uri = str(item.path)
    image.width_px = width_px
    image.height_px = height_px
    image.um_per_px = item.um_per_px
    image.group_name = item.group
    image.split = split
    image.state = "ready"
    image.problem = None


def _cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    return pixels[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px]


def _import_masks(
    database: Database,
    blobs: BlobFolder,
    item: RegisterItem,
    size: tuple[int, int],
    tiles: Sequence[Tile],
    class_count: int,
    report: RegisterReport,
    actor: str,
) -> None:
    assert item.mask is not None
    mask = read_mask(item.mask, class_count=class_count, foreground=item.foreground, expected_size=size)
    with database.transaction() as session:
        for tile in tiles:
            box = Box(tile.x_px, tile.y_px, tile.width_px, tile.height_px)
            report.masks += _import_mask(session, blobs, tile.id, _cut(mask, box))
        events.record(
            session,
            project_id=tiles[0].project_id if tiles else None,
            actor=actor,
            what="mask imported",
            subject="image",
        )


def _import_mask(session: Session, blobs: BlobFolder, tile_id: int, mask: np.ndarray) -> int:
    share = float((mask != IGNORE).mean())
    row = masks.append(
        session, tile_id=tile_id, origin="imported", blob=blobs.put(encode_raster(mask)), reviewed_share=share
    )
    return 0 if row is None else 1
