"""Masks as COCO: one image per tile, one annotation per connected area, as run lengths that need no decoder of COCO's.

Uncompressed run lengths (``counts`` as a list, column by column, zeros first) are exact, holes included, and every
reader of COCO takes them. Pixels of which nothing is known are annotations of a category of their own with
``iscrowd`` 1, which evaluation leaves out, so that nobody takes them for background.

Source: the COCO data format, and ``maskApi`` for the order of the runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from mpamatch.domain.classes import IGNORE, ClassSet
from mpamatch.domain.masks import BoolArray, Mask
from mpamatch.domain.tiling import Box

UNKNOWN_NAME = "not reviewed"


@dataclass(frozen=True)
class CocoTile:
    """One tile: the picture that a reader will look for, its place in its image (level-0 pixels), its mask."""

    tile_id: int
    file_name: str
    image: str
    box: Box
    um_per_px: float | None
    mask: Mask


def to_coco(tiles: Sequence[CocoTile], classes: ClassSet, *, description: str) -> dict[str, Any]:
    """The whole file. Category ids are class ids; background, which COCO does not have, is in none."""
    annotations: list[dict[str, Any]] = []
    for tile in tiles:
        size = (int(tile.mask.shape[0]), int(tile.mask.shape[1]))
        for area in _areas(tile.mask):
            annotations.append(_annotation(len(annotations) + 1, tile.tile_id, size, area))
    return {
        "info": {"description": description, "version": "1.0"},
        "licenses": [],
        "images": [
            {
                "id": tile.tile_id,
                "file_name": tile.file_name,
                "width": int(tile.mask.shape[1]),
                "height": int(tile.mask.shape[0]),
                "slide": tile.image,
                "box_level0": [tile.box.x_px, tile.box.y_px, tile.box.width_px, tile.box.height_px],
                "um_per_px": tile.um_per_px,
            }
            for tile in tiles
        ],
        "categories": [
            *({"id": c.id, "name": c.name, "supercategory": "tissue", "color": c.colour} for c in classes.foreground),
            {"id": IGNORE, "name": UNKNOWN_NAME, "supercategory": "ignore"},
        ],
        "annotations": annotations,
    }


@dataclass(frozen=True)
class _Area:
    """Connected pixels of a class: the box around them as slices, and which pixels of the box."""

    class_id: int
    rows: slice
    columns: slice
    inside: BoolArray


def _areas(mask: Mask) -> Iterator[_Area]:
    """Connected over edges, class by class; what is unknown is one area."""
    for class_id in sorted({int(v) for v in np.unique(mask)} - {0}):
        where = mask == class_id
        labels = where.astype(np.int32) if class_id == IGNORE else ndimage.label(where)[0]
        for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
            yield _Area(class_id, rows, columns, labels[rows, columns] == number)


def _annotation(number: int, tile_id: int, size: tuple[int, int], area: _Area) -> dict[str, Any]:
    left, top = area.columns.start, area.rows.start
    return {
        "id": number,
        "image_id": tile_id,
        "category_id": area.class_id,
        "segmentation": {"counts": _runs_of(area, size), "size": list(size)},
        "area": int(area.inside.sum()),
        "bbox": [left, top, area.columns.stop - left, area.rows.stop - top],
        "iscrowd": int(area.class_id == IGNORE),
    }


def _runs_of(area: _Area, size: tuple[int, int]) -> list[int]:
    """The area's runs in the whole mask (height, width); columns beside its box are zeros, and are not looked at."""
    height, width = size
    columns = np.zeros((height, area.inside.shape[1]), bool)
    columns[area.rows] = area.inside
    runs = encode_runs(columns)
    runs[0] += area.columns.start * height
    rest = (width - area.columns.stop) * height
    if len(runs) % 2:
        runs[-1] += rest
        return runs
    return [*runs, rest] if rest else runs


def encode_runs(where: BoolArray) -> list[int]:
    """Lengths of the runs of zeros and ones, column by column, zeros first (0 when the first pixel is set).

    >>> encode_runs(np.array([[True, False], [True, True]]))
    [0, 2, 1, 1]
    """
    flat = where.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], changes, [flat.size]]))
    runs = [int(n) for n in lengths]
    return [0, *runs] if flat.size and flat[0] else runs
