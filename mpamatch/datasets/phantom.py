"""Drawn tissue as a data set: a folder of tiles by group with exact masks, made on demand and the same every time.

Two varieties: ``plain`` (``drawn_tissue``), which is learnt in minutes and serves demo and tests, and ``wide``
(``drawn/wide``), which is worth training on and knows each gland apart. ``phantom.json`` in the folder says how each
tile was drawn, so that the exact mask of a tile whose mask was not written can be drawn again.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from mpamatch.datasets.drawn.wide import draw_wide_tile
from mpamatch.datasets.drawn_tissue import draw_tile
from mpamatch.datasets.items import DatasetItem, ListedDataset, validation_names
from mpamatch.errors import BadInput, Conflict
from mpamatch.files.images import encode_png
from mpamatch.files.masks import write_mask
from mpamatch.files.rasters import encode_instances

__all__ = ["CLASS_NAMES", "VARIETIES", "draw_tile", "open_phantom", "write_folder"]

Variety = Literal["plain", "wide"]
VARIETIES: tuple[str, ...] = ("plain", "wide")

CLASS_NAMES = ("background", "gland")
DEFAULT_SEED = 20250827
HARD_SHARE = 0.3
_MANIFEST = "phantom.json"
_COLOURS = ("#000000", "#d62728")


@dataclass(frozen=True)
class DrawnTile:
    """How one tile was drawn; ``name`` is its file's stem. ``number`` is the stain of a plain tile, and the place of a
    wide one among the tiles of its seed."""

    name: str
    group: str
    seed: int
    number: int
    size_px: int
    hard: bool
    masked: bool
    variety: str = "plain"

    def draw(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
        """The image and its class ids."""
        image, classes, _ = self.draw_apart()
        return image, classes

    def draw_apart(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.uint16] | None]:
        """The image, its class ids, and the number of each gland where the variety knows it."""
        if self.variety == "wide":
            return draw_wide_tile(self.seed, self.number, self.size_px)
        return *draw_tile(self.seed, size_px=self.size_px, hard=self.hard, group=self.number), None


def plan_tiles(
    tiles: int,
    groups: int,
    size_px: int,
    masked: int | None,
    seed: int,
    hard_share: float = HARD_SHARE,
    variety: Variety = "plain",
) -> tuple[DrawnTile, ...]:
    """Tiles dealt to groups in turn, a share of the plain ones hard, spread evenly; the first ``masked`` carry a mask.

    The masked ones come one from each group in turn, so that even a few show several stains.
    """
    if variety not in VARIETIES:
        raise BadInput(f"variety {variety!r}", "unknown", f"one of {', '.join(VARIETIES)}")
    if not 1 <= groups <= tiles or size_px < 16:
        raise BadInput("drawn tissue", f"{tiles} tiles in {groups} groups at {size_px} px", "ask for more tiles")
    planned = []
    for index in range(tiles):
        turn, group = divmod(index, groups)
        # A group's hard tiles come evenly among its own, and the groups begin at different places of that rhythm.
        due = turn * hard_share + group / groups
        planned.append(
            DrawnTile(
                name=f"tile-{index:04d}",
                group=f"patient-{group:02d}",
                seed=seed if variety == "wide" else seed + index,
                number=index if variety == "wide" else seed % 1000 + group,
                size_px=size_px,
                hard=variety == "plain" and int(due + hard_share) > int(due),
                masked=masked is None or index < masked,
                variety=variety,
            )
        )
    return tuple(planned)


def write_folder(
    folder: Path,
    *,
    tiles: int = 60,
    groups: int = 12,
    size_px: int = 256,
    masked: int | None = None,
    seed: int = DEFAULT_SEED,
    variety: Variety = "plain",
) -> tuple[DrawnTile, ...]:
    """Draw FOLDER/GROUP/image/NAME.png and, for the first ``masked`` tiles (all: None), FOLDER/GROUP/label/NAME.png.

    Wide tiles with a mask also have FOLDER/GROUP/label/instances/NAME.png: 16-bit grey, the number of each gland.
    A folder that already holds the same tiles is left as it is; one that was cut short is completed. Raises Conflict
    when it holds other drawn tiles.
    """
    planned = plan_tiles(tiles, groups, size_px, masked, seed, variety=variety)
    manifest = folder / _MANIFEST
    if manifest.is_file() and _read_manifest(manifest) != planned:
        raise Conflict(str(folder), "holds other drawn tiles", "choose another folder, or remove this one")
    folder.mkdir(parents=True, exist_ok=True)
    _write(manifest, json.dumps({"tiles": [asdict(tile) for tile in planned]}, indent=1).encode())
    for tile in planned:
        image, label = _paths(folder, tile)
        if image.is_file() and (label.is_file() or not tile.masked):
            continue
        pixels, mask, instances = tile.draw_apart()
        if tile.masked:
            if instances is not None:
                _write(label.parent / "instances" / label.name, encode_instances(instances))
            _write(label, write_mask(mask, _COLOURS))
        _write(image, encode_png(pixels))
    return planned


def open_phantom(root: Path) -> ListedDataset:
    """The drawn tiles below ``root``; drawn there first (60 tiles of 12 groups) when it holds none.

    Every item's exact mask can be read, whether it was written or not; ``item.mask`` is None where it was not. Whole
    groups validate. Raises BadInput when tiles are missing or ``root`` holds something else.
    """
    manifest = root / _MANIFEST
    if not manifest.is_file():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise BadInput(str(root), f"holds no {_MANIFEST}, but something else", "give an empty or new folder")
        write_folder(root)
    tiles = {tile.name: tile for tile in _read_manifest(manifest)}
    items = [_item(root, tile) for tile in tiles.values()]
    if missing := [item.image for item in items if not item.image.is_file()]:
        raise BadInput(str(root), f"{len(missing)} of {len(items)} drawn tiles are missing", "remove it to draw again")
    return ListedDataset(
        name="phantom",
        class_names=CLASS_NAMES,
        foreground=False,
        listing=tuple(items),
        validation=validation_names(items, None),
        draw=lambda item: tiles[item.name].draw()[1],
    )


def _item(root: Path, tile: DrawnTile) -> DatasetItem:
    image, label = _paths(root, tile)
    return DatasetItem(tile.name, image, label if label.is_file() else None, tile.group)


def _paths(folder: Path, tile: DrawnTile) -> tuple[Path, Path]:
    return folder / tile.group / "image" / f"{tile.name}.png", folder / tile.group / "label" / f"{tile.name}.png"


def _read_manifest(path: Path) -> tuple[DrawnTile, ...]:
    try:
        return tuple(DrawnTile(**row) for row in json.loads(path.read_text("utf-8"))["tiles"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(str(path), f"unreadable ({error})", "remove the folder to draw it again") from error


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all: a half-written tile would be taken for a finished one by the next start."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)
