"""Take masks that other programs wrote (indexed PNG, GeoJSON) as new versions of the tiles that they are of.

A file is found to its image by its name: the image's, the one that an export gave it, or the image's id. One bad file
is a line and the rest goes on; a mask that says what counts already changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.store import events, images, masks, projects
from backend.store.blobs import BlobStore
from backend.store.masked_images import find_image, names_of
from backend.store.sessions import Database
from backend.store.tables import Image, Tile
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.geojson import from_geojson
from mpamatch.domain.masks import Mask, crop, resample, reviewed_share
from mpamatch.domain.outlines import TileFrame
from mpamatch.domain.tiling import Box, tile_size
from mpamatch.errors import BadInput, MpamatchError, NotFound
from mpamatch.files.folders import MASK_ENDINGS
from mpamatch.files.geojson import read_geojson
from mpamatch.files.images import image_size
from mpamatch.files.masks import read_mask
from mpamatch.files.rasters import encode_raster

PNG, GEOJSON = ".png", (".geojson", ".json")
_TILE_NAME = re.compile(r"(?P<name>.+)_(\d{1,9})-(\d{1,9})-(\d{1,9})-(\d{1,9})", re.DOTALL)


@dataclass
class ImportReport:
    """What an import did, counted by tile masks."""

    masks: int = 0
    unchanged: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Target:
    """The image that a file is of, with the tiles that it may paint; ``exact`` when its name means one tile."""

    image: Image
    tiles: tuple[Tile, ...]
    exact: bool


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files that were named, and the PNG and GeoJSON files of folders. Raises NotFound."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(p for p in path.iterdir() if p.is_file() and p.suffix.lower() in (PNG, GEOJSON[0]))
        elif path.exists():
            found.append(path)
        else:
            raise NotFound(str(path), "no such file or folder", "check the path")
    return [path for path in found if not path.name.startswith(".")]


def import_masks(
    database: Database,
    blobs: BlobStore,
    project_id: int,
    files: Sequence[Path],
    *,
    foreground: bool = False,
    actor: str = "import",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImportReport:
    """Import every file; each is one transaction. ``foreground``: any value above 0 of a PNG is the second class."""
    report = ImportReport()
    with database.transaction() as session:
        classes = projects.classes_of(projects.get(session, project_id))
        names = names_of(session, project_id)
    if foreground and classes.count != 2:
        raise BadInput("--foreground", "the project has more than two classes", "give masks of class ids")
    for done, path in enumerate(files, start=1):
        try:
            _import_file(database, blobs, project_id, path, names, classes, foreground, report, actor)
        except MpamatchError as error:
            report.problems.append(str(error))
        progress(done, len(files))
    if report.masks:
        with database.transaction() as session:
            # What has a mask now is no longer asked for: the queue is ordered anew.
            projects.get(session, project_id).ranked_model_id = None
    return report


def _import_file(
    database: Database,
    blobs: BlobStore,
    project_id: int,
    path: Path,
    names: Mapping[int, str],
    classes: ClassSet,
    foreground: bool,
    report: ImportReport,
    actor: str,
) -> None:
    suffix = path.suffix.lower()
    if suffix not in (PNG, *GEOJSON):
        raise BadInput(str(path), "is neither PNG nor GeoJSON by its name", "give .png or .geojson files")
    values = None if suffix == PNG else read_geojson(path)
    with database.transaction() as session:
        target = _target(session, project_id, path, names, values)
    if suffix == PNG:
        found = _of_png(path, target, classes, foreground)
    else:
        size = (target.image.width_px, target.image.height_px)
        frames = [TileFrame(t.box, t.size_px) for t in target.tiles]
        placed = from_geojson(values, str(path), size, frames, classes)
        found = [(t, m) for t, m in zip(target.tiles, placed.masks, strict=True) if m is not None]
        if placed.cut:
            what = f"{placed.cut} objects reach beyond the tile that they were made on; what lies outside is left out"
            report.notes.append(f"{path}: {what}")
    if not found:
        report.notes.append(f"{path}: says nothing of any tile")
    _keep(database, blobs, path, target.image, found, report, actor)


def _target(session: Session, project_id: int, path: Path, names: Mapping[int, str], values: Any) -> _Target:
    stem = path.stem
    image = _image(session, project_id, stem, names)
    box = None
    if image is None and (parts := _TILE_NAME.fullmatch(stem)):
        image = _image(session, project_id, parts["name"], names)
        box = Box(*(int(n) for n in parts.groups()[1:]))
    if image is None and isinstance(values, Mapping) and isinstance(values.get("image"), Mapping):
        sha256 = values["image"].get("sha256")
        image = images.by_hash(session, project_id, sha256) if isinstance(sha256, str) else None
    if image is None:
        raise BadInput(str(path), "no image of the project has this name", "name it as the image, or by the image's id")
    if image.state != "ready":
        raise BadInput(str(path), f"its image is set aside ({image.problem})", "register the image again first")
    tiles = tuple(t for t in images.tiles_of(session, image.id) if box is None or t.box == box)
    if not tiles:
        what = "its image has no tile" if box is None else f"its image has no tile at {box}"
        raise BadInput(str(path), what, "see `mpamatch masks export` for the names of tiles")
    return _Target(image, tiles, box is not None or len(tiles) == 1)


def _image(session: Session, project_id: int, stem: str, names: Mapping[int, str]) -> Image | None:
    found = find_image(session, project_id, stem, names)
    for ending in MASK_ENDINGS:
        if found is None and stem.lower().endswith(ending):
            found = find_image(session, project_id, stem[: -len(ending)], names)
    return found


def _of_png(path: Path, target: _Target, classes: ClassSet, foreground: bool) -> list[tuple[Tile, Mask]]:
    """One mask for one tile at its own size, or a mask of the whole image that is cut into those of its tiles."""
    size = image_size(path)
    image = Box(0, 0, target.image.width_px, target.image.height_px)
    whole, reduced = (image.width_px, image.height_px), tile_size(image, target.tiles[0].scale)
    if target.exact and size == target.tiles[0].size_px:
        return [(target.tiles[0], read_mask(path, class_count=classes.count, foreground=foreground))]
    if size not in (whole, reduced):
        wanted = " or ".join(f"{w} x {h}" for w, h in dict.fromkeys([*_own_size(target), whole, reduced]))
        raise BadInput(str(path), f"{size[0]} x {size[1]} px, not {wanted}", "export it at the size of its image")
    mask = read_mask(path, class_count=classes.count, foreground=foreground)
    cut = [(t, _cut(mask, t, reduced=size != whole)) for t in target.tiles]
    return [(tile, part) for tile, part in cut if reviewed_share(part) > 0]


def _own_size(target: _Target) -> list[tuple[int, int]]:
    return [target.tiles[0].size_px] if target.exact else []


def _cut(mask: Mask, tile: Tile, *, reduced: bool) -> Mask:
    if not reduced:
        return resample(crop(mask, tile.box), *tile.size_px)
    width, height = tile.size_px
    left = min(round(tile.x_px / tile.scale), mask.shape[1] - width)
    top = min(round(tile.y_px / tile.scale), mask.shape[0] - height)
    return crop(mask, Box(left, top, width, height))


def _keep(
    database: Database,
    blobs: BlobStore,
    path: Path,
    image: Image,
    found: Sequence[tuple[Tile, Mask]],
    report: ImportReport,
    actor: str,
) -> None:
    stored = [(tile, blobs.put(encode_raster(mask)), reviewed_share(mask)) for tile, mask in found]
    kept = []
    with database.transaction() as session:
        for tile, blob, share in stored:
            session.execute(select(Tile.id).where(Tile.id == tile.id).with_for_update())
            newest = masks.newest_counting(session, tile.id)
            if newest is not None and newest.blob == blob:
                continue
            row = masks.append(session, tile_id=tile.id, origin="imported", blob=blob, reviewed_share=share, asked=True)
            if row is not None:
                kept.append({"tile": tile.id, "version": row.version})
        if kept:
            events.record(
                session,
                project_id=image.project_id,
                actor=actor,
                what="masks imported",
                subject=f"image:{image.id}",
                after={"file": path.name, "masks": kept},
            )
    report.masks += len(kept)
    report.unchanged += len(stored) - len(kept)
