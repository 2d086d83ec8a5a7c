"""Write the counting masks of a project as files that other programs read: indexed PNG, COCO, GeoJSON.

What was not reviewed stays apart from background in each of them: 255 in a PNG, a category of its own in COCO, and
nothing but the ``Region*`` areas in GeoJSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from backend.store import projects
from backend.store.blobs import BlobStore
from backend.store.masked_images import ORIGINS, MaskedImage, MaskedTile, masked_images
from backend.store.sessions import Database
from backend.store.tables import Image
from mpamatch.domain.classes import IGNORE, ClassSet
from mpamatch.domain.coco import CocoTile, to_coco
from mpamatch.domain.geojson import TileMask, to_geojson
from mpamatch.domain.masks import Mask, unsupervised
from mpamatch.domain.outlines import TileFrame
from mpamatch.domain.tiling import Box, tile_size
from mpamatch.errors import BadInput, MpamatchError
from mpamatch.files.masks import write_mask
from mpamatch.files.rasters import decode_raster
from mpamatch.files.whole_files import write_whole

Format = Literal["png", "coco", "geojson"]
COCO_NAME = "annotations.json"
PICTURES = "pictures"
WHOLE_BUDGET_PX = 100_000_000


@dataclass
class ExportReport:
    """What was written."""

    images: int
    masks: int
    files: list[str]
    problems: list[str]


def export_masks(
    database: Database,
    blobs: BlobStore,
    project_id: int,
    out: Path,
    *,
    form: Format,
    origins: Iterable[str] = ORIGINS,
    whole: bool = False,
    pictures: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ExportReport:
    """Write one file per tile or image (PNG), per image (GeoJSON), or one for all (COCO) into ``out``.

    ``whole``: one PNG per image at the scale of its tiles instead of one per tile. ``pictures``: the tiles' pictures
    too, under the same names. One image that fails is a problem and the rest goes on. Raises Unavailable when ``out``
    cannot be written.
    """
    with database.transaction() as session:
        classes = projects.classes_of(projects.get(session, project_id))
        found = list(masked_images(session, project_id, origins=origins))
    report = ExportReport(0, 0, [], [])
    coco: list[CocoTile] = []
    for done, one in enumerate(found, start=1):
        try:
            masks = [(t, decode_raster(blobs.get(t.blob))) for t in one.tiles]
            if form == "png":
                files = _png_files(one, masks, classes, whole)
            elif form == "geojson":
                files = {f"{one.name}.geojson": _geojson(one, masks, classes)}
            else:
                files = {}
                coco += _coco_tiles(one, masks)
            if pictures and form != "geojson":
                files |= {f"{PICTURES}/{_tile_name(one, t.tile.box)}.png": blobs.get(t.tile.png_blob) for t, _ in masks}
        except (BadInput, MpamatchError) as error:
            report.problems.append(f"{one.name}: {error}")
            continue
        _write(out, files, report)
        report.images += 1
        report.masks += len(masks)
        progress(done, len(found))
    if form == "coco":
        text = json.dumps(to_coco(coco, classes, description="masks of tissue, exported by mpamatch"))
        _write(out, {COCO_NAME: text.encode()}, report)
    return report


def _write(out: Path, files: dict[str, bytes], report: ExportReport) -> None:
    for name, content in files.items():
        write_whole(out / name, content)
        report.files.append(name)


def _png_files(
    one: MaskedImage, masks: list[tuple[MaskedTile, Mask]], classes: ClassSet, whole: bool
) -> dict[str, bytes]:
    colours = [c.colour for c in classes.classes]
    if whole and not _is_whole(one.image, one.tiles[0].tile.box):
        return {f"{one.name}.png": write_mask(_merged(one, masks), colours)}
    return {f"{_tile_name(one, t.tile.box)}.png": write_mask(mask, colours) for t, mask in masks}


def _merged(one: MaskedImage, masks: list[tuple[MaskedTile, Mask]]) -> Mask:
    """All tiles on one raster at their scale."""
    scale = one.tiles[0].tile.scale
    width, height = tile_size(Box(0, 0, one.image.width_px, one.image.height_px), scale)
    if width * height > WHOLE_BUDGET_PX:
        problem = f"{width} x {height} px at the scale of its tiles"
        raise BadInput(one.name, problem, "leave --whole out: its tiles are exported one by one")
    merged = unsupervised(width, height)
    for masked, mask in masks:
        left = min(round(masked.tile.x_px / scale), width - mask.shape[1])
        top = min(round(masked.tile.y_px / scale), height - mask.shape[0])
        place = merged[top : top + mask.shape[0], left : left + mask.shape[1]]
        np.copyto(place, mask, where=mask != IGNORE)
    return merged


def _geojson(one: MaskedImage, masks: list[tuple[MaskedTile, Mask]], classes: ClassSet) -> bytes:
    tiles = [TileMask(TileFrame(t.tile.box, t.tile.size_px), mask, t.origin, t.version) for t, mask in masks]
    size = (one.image.width_px, one.image.height_px)
    return json.dumps(to_geojson(one.name, one.image.sha256, size, tiles, classes)).encode()


def _coco_tiles(one: MaskedImage, masks: list[tuple[MaskedTile, Mask]]) -> list[CocoTile]:
    um_per_px = one.image.um_per_px
    return [
        CocoTile(
            tile_id=t.tile.id,
            file_name=f"{_tile_name(one, t.tile.box)}.png",
            image=one.name,
            box=t.tile.box,
            um_per_px=None if um_per_px is None else um_per_px * t.tile.scale,
            mask=mask,
        )
        for t, mask in masks
    ]


def _tile_name(one: MaskedImage, box: Box) -> str:
    """The image's own name where the tile is all of it, else with the tile's box in level-0 pixels."""
    if _is_whole(one.image, box):
        return one.name
    return f"{one.name}_{box.x_px}-{box.y_px}-{box.width_px}-{box.height_px}"


def _is_whole(image: Image, box: Box) -> bool:
    return box == Box(0, 0, image.width_px, image.height_px)
