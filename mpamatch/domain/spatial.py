"""Where the tiles of an image lie: over all of its tissue, or apart in a train and an audit part of a single slide.

Pure. Groups are never parted; only where a project has one group is a slide cut, since a yardstick from the same
slide is worth more than none. What comes out is a value that says why.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpamatch.domain.splits import AUDIT_SHARE, Split
from mpamatch.domain.tiling import Box, tile_boxes

MIN_TISSUE_SHARE = 0.1
# Tissue nearer than this to the audit part, in tiles, is in neither: a gland or a fold must not lie in both.
MARGIN_TILES = 0.25
# With fewer tiles than this nothing is left to learn from once some are set apart.
MIN_TILES = 4


@dataclass(frozen=True)
class PlannedTile:
    """A tile to be made: its box in level-0 pixels, what of it is tissue, and its split where its image's is not."""

    box: Box
    tissue_share: float
    split: Split | None = None


@dataclass(frozen=True)
class TilePlan:
    """The tiles of an image. ``note`` says in words how a single slide was parted; None where it was not."""

    tiles: tuple[PlannedTile, ...]
    note: str | None = None


def plan_tiles(
    size_px: tuple[int, int], tissue: npt.NDArray[np.bool_], *, tile_px: int, scale: float, alone: bool = False
) -> TilePlan:
    """The tiles of an image of ``size_px`` (width, height) where at least a tenth is tissue; no two share a pixel.

    ``tissue`` bool (h, w) is a reduced picture of the whole image. An image that is one tile is taken whatever it
    shows. ``alone``: its group is the only one, so that a part of it becomes the audit block where there are at
    least four tiles of tissue.
    """
    whole = Box(0, 0, *size_px)
    tiles = _of_area(whole, size_px, tissue, tile_px, scale)
    if not alone or len(tiles) < MIN_TILES:
        return TilePlan(tiles)
    parted = _part(size_px, tissue, max(1, round(tile_px * scale)))
    if parted is None:
        return TilePlan(tiles)
    train, audit = parted
    kept = _of_area(train, size_px, tissue, tile_px, scale)
    judging = tuple(
        PlannedTile(t.box, t.tissue_share, "audit") for t in _of_area(audit, size_px, tissue, tile_px, scale)
    )
    if not kept or not judging:
        return TilePlan(tiles)
    return TilePlan((*kept, *judging), _note(train, audit, len(judging)))


def _of_area(
    area: Box, size_px: tuple[int, int], tissue: npt.NDArray[np.bool_], tile_px: int, scale: float
) -> tuple[PlannedTile, ...]:
    boxes = [
        Box(area.x_px + b.x_px, area.y_px + b.y_px, b.width_px, b.height_px)
        for b in tile_boxes(area.width_px, area.height_px, tile_px=tile_px, scale=scale)
    ]
    shares = [_share(b, size_px, tissue) for b in boxes]
    if len(boxes) == 1 and area == Box(0, 0, *size_px):
        return (PlannedTile(boxes[0], shares[0]),)
    return tuple(PlannedTile(b, s) for b, s in zip(boxes, shares, strict=True) if s >= MIN_TISSUE_SHARE)


def _share(box: Box, size_px: tuple[int, int], tissue: npt.NDArray[np.bool_]) -> float:
    """The share of a box of level 0 that is tissue in the reduced picture; at least one of its pixels is looked at."""
    x_factor, y_factor = size_px[0] / tissue.shape[1], size_px[1] / tissue.shape[0]
    left, top = int(box.x_px / x_factor), int(box.y_px / y_factor)
    right = max(left + 1, round((box.x_px + box.width_px) / x_factor))
    bottom = max(top + 1, round((box.y_px + box.height_px) / y_factor))
    part = tissue[top:bottom, left:right]
    return float(part.mean()) if part.size else 0.0


def _part(size_px: tuple[int, int], tissue: npt.NDArray[np.bool_], side_px: int) -> tuple[Box, Box] | None:
    """Train and audit part: the far end of the longer side, with a fifth of the tissue and at least a tile long.

    The cut lies on sixteenths of a tile: two files of one slide, whose tissue differs by a pixel, are parted alike.
    """
    width, height = size_px
    along_y = height >= width
    length = height if along_y else width
    margin = max(1, round(MARGIN_TILES * side_px))
    profile = tissue.sum(axis=1 if along_y else 0).astype(np.float64)
    if not profile.any() or length < side_px + margin + side_px // 2:
        return None
    beyond = np.cumsum(profile[::-1])[::-1] / profile.sum()
    # The last row from which on there is a fifth of the tissue.
    row = int(np.flatnonzero(beyond >= AUDIT_SHARE)[-1])
    step = max(1, side_px // 16)
    cut = round(row * length / len(profile) / step) * step
    cut = max(side_px // 2 + margin, min(cut, length - side_px))
    if along_y:
        return Box(0, 0, width, cut - margin), Box(0, cut, width, height - cut)
    return Box(0, 0, cut - margin, height), Box(cut, 0, width - cut, height)


def _note(train: Box, audit: Box, tiles: int) -> str:
    along_y = audit.x_px == 0 and audit.y_px > 0
    axis, cut = ("y", audit.y_px) if along_y else ("x", audit.x_px)
    margin = cut - (train.height_px if along_y else train.width_px)
    return (
        f"its group is the only one, so the part from {axis} = {cut} px on is the audit block ({tiles} tiles);"
        f" a margin of {margin} px before it is in neither split"
    )
