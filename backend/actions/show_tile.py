"""What Label Studio shows for one tile: its signed picture link, its prediction as a result, its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.labelstudio.results import ReviewBox, class_map_to_result, validate_result
from backend.store import masks, predictions, queue
from backend.store.blobs import BlobStore
from backend.store.images import tile_split
from backend.store.secrets import KeyRing
from backend.store.tables import Image, Model, Project, QueueEntry, Region, Tile
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.masks import Mask, combine
from mpamatch.domain.tiling import Box
from mpamatch.files.rasters import decode_raster

# A link is renewed when a seventh of its life is left.
LINK_RENEW_SHARE = 1 / 7
MAX_BOXES = 6


@dataclass(frozen=True)
class Shown:
    """One tile's prediction as rows: everything that building its result needs, read in one transaction.

    ``regions``: those that get a box; ``region_count``: how many the tile has, these included. ``known_blob``: the mask
    of a tile that was labelled in part, which is shown over the prediction: nobody corrects twice what is labelled.
    """

    tile_id: int
    width_px: int
    height_px: int
    class_blob: str | None
    regions: tuple[Region, ...]
    region_count: int = 0
    known_blob: str | None = None


# A task's picture tells that a person has its page open; one for looking at tells nothing.
Purpose = Literal["task", "look"]


def link(keys: KeyRing, public_url: str, tile_id: int, expires_at: datetime, *, purpose: Purpose = "task") -> str:
    """A capability for one picture until a time and for one purpose; it carries no other secret."""
    expires_s = int(expires_at.timestamp())
    signature = keys.sign(signed_words(tile_id, expires_s, purpose))
    wanted = "" if purpose == "task" else f"&purpose={purpose}"
    return f"{public_url}/tiles/{tile_id}.png?expires={expires_s}&key={keys.key_id}{wanted}&signature={signature}"


def signed_words(tile_id: int, expires_s: int, purpose: Purpose) -> str:
    """What the signature of a link is made over: one for looking at is none for a task."""
    return f"{tile_id}:{expires_s}" if purpose == "task" else f"{purpose}:{tile_id}:{expires_s}"


def tile_of(data: Any) -> int | None:
    """The tile that a task's data shows through a link of ours; a number that somebody else put there is not ours."""
    if not isinstance(data, dict):
        return None
    tile_id, image = data.get("tile_id"), data.get("image")
    if type(tile_id) is not int or not 0 < tile_id < 1 << 63 or not isinstance(image, str):
        return None
    return tile_id if image.partition("?")[0].endswith(f"/tiles/{tile_id}.png") else None


def read_shown(
    session: Session, project: Project, version: str, tile_ids: Sequence[int], *, every_region: bool = False
) -> dict[int, Shown]:
    """By tile: the stored prediction of ``version`` and the regions to point at. Audit tiles are blind.

    A tile whose mask only came with the images gets no regions: answers to boxes alone would leave the rest of it
    without the supervision that it has. ``every_region``: all of the prediction's own, which no new order changes.
    """
    found = predictions.by_version(session, project.id, version, tile_ids)
    rows = session.execute(
        select(Tile, tile_split).join(Image, Image.id == Tile.image_id).where(Tile.id.in_(list(found)))
    )
    tiles = {tile.id: (tile, split) for tile, split in rows}
    kind = session.scalar(select(Model.kind).where(Model.project_id == project.id, Model.version == version))
    seen = [p.id for t, p in found.items() if kind != "blank" and tiles[t][1] != "audit"]
    regions = predictions.regions_of(session, seen)
    entries = queue.of_tiles(session, project, tile_ids)
    whole = masks.only_imported(session, tile_ids)
    known = masks.blobs_of(session, [p.known_mask_id for p in found.values() if p.known_mask_id is not None])
    shown: dict[int, Shown] = {}
    for tile_id, prediction in found.items():
        tile, split = tiles[tile_id]
        blind = split == "audit" or kind == "blank"
        mine = () if blind or tile_id in whole else regions.get(prediction.id, ())
        worth = _worth(mine, entries.get(tile_id), every=every_region)
        boxes = worth if every_region else worth[:MAX_BOXES]
        class_blob = None if blind else prediction.class_blob
        part = None if blind or prediction.known_mask_id is None else known.get(prediction.known_mask_id)
        shown[tile_id] = Shown(tile_id, *tile.size_px, class_blob, boxes, len(worth), part)
    return shown


def _worth(regions: Sequence[Region], entry: QueueEntry | None, *, every: bool) -> tuple[Region, ...]:
    """A tile's regions, those most worth a look first: those of its entry, or ``every`` one."""
    mine = {r.id: r for r in regions}
    queued = [] if entry is None else [i for i in entry.region_ids if i in mine]
    if queued and not every:
        return tuple(mine[i] for i in queued)
    # The order was made for another model's regions: point at this one's own; they were stored most worth first.
    return tuple(mine[i] for i in [*queued, *sorted(mine.keys() - queued)])


def class_map_of(blobs: BlobStore, shown: Shown) -> Mask:
    """The class map (H, W) that is drawn on: the prediction, and over it what was known of the tile when the model
    looked. There must be a prediction to show. Raises BadInput and NotFound for what is damaged or lost."""
    assert shown.class_blob is not None
    class_map = decode_raster(blobs.get(shown.class_blob))
    return class_map if shown.known_blob is None else combine(class_map, decode_raster(blobs.get(shown.known_blob)))


def result_of(blobs: BlobStore, shown: Shown, classes: ClassSet, label_type: str) -> list[dict[str, Any]]:
    """The result for a stored prediction: one mask per class, read-only Review boxes, the scope. Checked."""
    if shown.class_blob is None:
        return []
    class_map = class_map_of(blobs, shown)
    boxes = [
        ReviewBox(
            box=Box(r.x_px, r.y_px, r.width_px, r.height_px),
            score=round(r.mean_confidence, 4),
            text=f"confidence {r.mean_confidence:.2f} over {r.area_px} px",
        )
        for r in shown.regions
    ]
    result = class_map_to_result(
        class_map,
        classes,
        review_boxes=boxes,
        scope="only the boxes" if boxes else None,
        label_type=label_type,  # type: ignore[arg-type]  # the column holds only these words
    )
    validate_result(result, classes, shown.width_px, shown.height_px)
    return result


def score_of(rank: int, size: int) -> float:
    """Rank as Label Studio's ascending score in (0, 1): distinct for distinct ranks."""
    return rank / (size + 1)


def why_of(reasons: Sequence[str], *, audit: bool, shown: Shown | None = None) -> str:
    """The line above the picture, with how many regions have a box where not all have one.

    An audit tile says what it is for, and nothing of the model.
    """
    if audit:
        return "Audit tile: please draw it whole. It measures the model, so no suggestion is shown."
    if shown is not None and len(shown.regions) < shown.region_count:
        reasons = (*reasons, f"{len(shown.regions)} of {shown.region_count} regions shown")
    if shown is not None and shown.known_blob is not None:
        reasons = (*reasons, "what is labelled already is shown as it was labelled")
    return "; ".join(reasons)
