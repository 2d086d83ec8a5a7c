"""Take images (and masks that exist already) into a project: hash, split by group, tile, render, keep.

One bad item is reported with its reason; the rest goes on. Registering the same content twice changes nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sqlalchemy.orm import Session

from backend.store import events, images, masks, projects
from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from backend.store.tables import Image, Tile
from mpamatch.domain.classes import IGNORE
from mpamatch.domain.likeness import look_hash
from mpamatch.domain.masks import crop, resample
from mpamatch.domain.pyramid import TileScale
from mpamatch.domain.spatial import PlannedTile, plan_tiles
from mpamatch.domain.splits import assign_splits
from mpamatch.domain.tiling import WHOLE_IMAGE_FACTOR, tissue_mask
from mpamatch.errors import BadInput, Conflict, MpamatchError
from mpamatch.files.images import encode_png
from mpamatch.files.masks import read_mask
from mpamatch.files.rasters import encode_raster
from mpamatch.files.slides import Slide, open_slide, overview, read_tile, slide_size

# The longer side of the small picture on which tissue is found: a 1024 px tile of a slide 100 times as large is still
# 20 of its pixels.
OVERVIEW_PX = 2048


@dataclass(frozen=True)
class RegisterItem:
    """One image to register. ``split`` is given only where a published list or a manifest decides it.

    ``group_named`` is False where the group is only the image's own name, for want of anything better.
    """

    path: Path
    group: str
    mask: Path | None = None
    split: str | None = None
    um_per_px: float | None = None
    foreground: bool = False
    group_named: bool = True


@dataclass
class RegisterReport:
    """What a registration did, counted."""

    images: int = 0
    known: int = 0
    tiles: int = 0
    masks: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def register(
    database: Database,
    blobs: BlobStore,
    project_id: int,
    items: Sequence[RegisterItem],
    *,
    actor: str = "register",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> RegisterReport:
    """Register every item; each is durable by itself, so a stop in the middle loses nothing and may be repeated.

    ``notes`` of the report say what a reader should know of an image that came in: a scale that is unknown, the audit
    block of a single slide.
    """
    report = RegisterReport()
    usable = _with_their_split(database, project_id, items, report)
    batch = _decide(database, project_id, usable)
    for done, item in enumerate(usable, start=1):
        try:
            _register_one(database, blobs, project_id, item, batch, report, actor)
        except MpamatchError as error:
            report.problems.append(str(error))
        progress(done, len(usable))
    return report


@dataclass(frozen=True)
class _Batch:
    """What is decided for all images before the first is read. ``alone``: groups whose slides are parted."""

    splits: dict[str, str]
    alone: frozenset[str]
    tile_scale: TileScale


def _with_their_split(
    database: Database, project_id: int, items: Sequence[RegisterItem], report: RegisterReport
) -> list[RegisterItem]:
    """The items whose given split can be: a group keeps the split that it has, for good."""
    with database.transaction() as session:
        images.lock_registration(session, project_id)
        splits = images.known_splits(session, project_id)
    usable = []
    for item in items:
        split = splits.setdefault(item.group, item.split) if item.split is not None else None
        if split == item.split:
            usable.append(item)
            continue
        problem = f"group {item.group} is in {split} already, not in {item.split}"
        report.problems.append(str(BadInput(str(item.path), problem, "a group keeps its split; correct the manifest")))
    return usable


def _decide(database: Database, project_id: int, items: Sequence[RegisterItem]) -> _Batch:
    with database.transaction() as session:
        images.lock_registration(session, project_id)
        splits = images.known_splits(session, project_id)
        parted = images.parted_groups(session, project_id)
        tile_scale = projects.policy_of(projects.get(session, project_id)).tile_scale
    given = {item.group: item.split for item in items if item.split is not None}
    splits = {**given, **splits}
    splits.update(assign_splits(splits, {item.group for item in items}))
    single = frozenset(splits) - set(given) if len(splits) == 1 else frozenset()
    return _Batch(splits, parted | single, tile_scale)


def _register_one(
    database: Database,
    blobs: BlobStore,
    project_id: int,
    item: RegisterItem,
    batch: _Batch,
    report: RegisterReport,
    actor: str,
) -> None:
    sha256, version = _hash(item.path), _version(item.path)
    split = batch.splits[item.group]
    with database.transaction() as session:
        known = images.by_hash(session, project_id, sha256)
        classes = projects.classes_of(projects.get(session, project_id))
        tiled = [] if known is None else list(images.tiles_of(session, known.id))
    if known is not None and known.state == "ready":
        report.known += 1
        if item.mask is not None:
            _import_masks(database, blobs, item, (known.width_px, known.height_px), tiled, classes.count, report, actor)
        return
    if known is not None and tiled:
        if item.group_named and item.group != known.group_name:
            said = f"is in group {known.group_name} already, not in {item.group}"
            remedy = "an image keeps its group; correct the manifest"
            report.problems.append(str(Conflict(str(item.path), said, remedy)))
        # What its tiles are and whom they are of was decided; only their pictures are made again.
        item = dataclasses.replace(item, group=known.group_name, um_per_px=known.um_per_px)
    try:
        with open_slide(item.path) as slide:
            made = _make_tiles(blobs, item, slide, batch)
    except BadInput as error:
        problem = BadInput(str(item.path), error.problem, error.remedy)
        # The row is read by everybody who may see the project, and a folder may name a patient.
        shown = str(problem).replace(str(item.path), item.path.name)
        _quarantine(database, project_id, item, sha256, split, shown)
        raise problem from error
    if _version(item.path) != version:
        raise BadInput(str(item.path), "changed while it was read", "register it again once it is whole")
    rows = _keep_tiles(database, project_id, item, sha256, split, made, actor)
    report.images += 1
    report.tiles += len(rows)
    report.notes += made.notes
    if item.mask is not None:
        _import_masks(database, blobs, item, made.size_px, rows, classes.count, report, actor)


def _hash(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for its other end for ever
            raise BadInput(str(path), "is no regular file", "give an image file")
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(
            str(path), f"cannot be read ({error.strerror})", "check that it exists and may be read"
        ) from error


def _version(path: Path) -> tuple[int, int]:
    """What changes when somebody writes to the file: a slide may still be on its way while it is registered."""
    try:
        status = path.stat()
    except OSError as error:
        raise BadInput(str(path), f"cannot be read ({error.strerror})", "check that it is still there") from error
    return status.st_size, status.st_mtime_ns


@dataclass(frozen=True)
class _MadeTiles:
    """The tiles of one image with their pictures as blobs, not in the database yet."""

    size_px: tuple[int, int]
    um_per_px: float | None
    scale: float
    tiles: tuple[tuple[PlannedTile, str, int], ...]
    notes: tuple[str, ...]


def _make_tiles(blobs: BlobStore, item: RegisterItem, slide: Slide, batch: _Batch) -> _MadeTiles:
    """Plan the tiles on a small picture, then render them one by one: a slide is never in memory as a whole."""
    size_px = slide_size(slide)
    um_per_px = item.um_per_px or slide.um_per_px
    tile_px, scale, notes = batch.tile_scale.tile_px, 1.0, []
    # What is one tile at its own scale stays as it is, one to one.
    if max(size_px) > WHOLE_IMAGE_FACTOR * tile_px:
        scale = batch.tile_scale.for_image(um_per_px)
        if um_per_px is None:
            notes.append("um per px is unknown, so its tiles have the scale of its own pixels; a manifest can tell it")
    tissue = tissue_mask(overview(slide, OVERVIEW_PX, str(item.path)))
    plan = plan_tiles(size_px, tissue, tile_px=tile_px, scale=scale, alone=item.group in batch.alone)
    if plan.note is not None:
        notes.append(plan.note)
    if not plan.tiles:
        notes.append("no tissue was found on it")
    tiles = []
    for planned in plan.tiles:
        picture = read_tile(slide, planned.box, scale)
        tiles.append((planned, blobs.put(encode_png(picture)), look_hash(picture)))
    return _MadeTiles(size_px, um_per_px, scale, tuple(tiles), tuple(f"{item.path}: {note}" for note in notes))


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
    project_id: int,
    item: RegisterItem,
    sha256: str,
    split: str,
    made: _MadeTiles,
    actor: str,
) -> list[Tile]:
    with database.transaction() as session:
        image = images.by_hash(session, project_id, sha256)
        if image is None:
            image = Image(project_id=project_id, sha256=sha256)
            session.add(image)
        kept = [] if image.id is None else list(images.tiles_of(session, image.id))
        if kept:  # it was set aside after it was tiled; its pictures are whole again, and what it is for stays
            image.uri, image.state, image.problem = str(item.path), "ready", None
            events.record(session, project_id=project_id, actor=actor, what="image mended", subject=f"image:{image.id}")
            return kept
        _fill(image, item, split, made)
        session.flush()
        rows = [
            Tile(
                project_id=project_id,
                image_id=image.id,
                x_px=planned.box.x_px,
                y_px=planned.box.y_px,
                width_px=planned.box.width_px,
                height_px=planned.box.height_px,
                scale=made.scale,
                tissue_share=planned.tissue_share,
                split=planned.split,
                png_blob=png,
                look_hash=look,
            )
            for planned, png, look in made.tiles
        ]
        session.add_all(rows)
        events.record(
            session,
            project_id=project_id,
            actor=actor,
            what="image registered",
            subject=f"image:{image.id}",
            after={"tiles": len(rows), "split": split, "notes": list(made.notes)},
        )
    return rows


def _fill(image: Image, item: RegisterItem, split: str, made: _MadeTiles) -> None:
    image.uri = str(item.path)
    image.width_px, image.height_px = made.size_px
    image.um_per_px = made.um_per_px
    image.group_name = item.group
    image.split = split
    image.state = "ready"
    image.problem = None


def _import_masks(
    database: Database,
    blobs: BlobStore,
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
            report.masks += _import_mask(session, blobs, tile.id, resample(crop(mask, tile.box), *tile.size_px))
        events.record(
            session,
            project_id=tiles[0].project_id if tiles else None,
            actor=actor,
            what="mask imported",
            subject="image",
        )


def _import_mask(session: Session, blobs: BlobStore, tile_id: int, mask: np.ndarray) -> int:
    share = float((mask != IGNORE).mean())
    row = masks.append(
        session, tile_id=tile_id, origin="imported", blob=blobs.put(encode_raster(mask)), reviewed_share=share
    )
    return 0 if row is None else 1
