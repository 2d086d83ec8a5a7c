"""The queue as rows that other programs read: CSV with one line per region, GeoJSON in level-0 pixels as QuPath has it.

A line has the region's Review box, where an answer counts; its outline, which the box is larger than, is in GeoJSON.

Every text in a CSV is made harmless: what begins like a formula gets an apostrophe in front, so that no spreadsheet
computes what a file or a class happens to be called. Numbers stay numbers.

Sources: RFC 4180 and 7946 (coordinates here are pixels, y down, as QuPath has them); OWASP on CSV injection.
"""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from mpamatch.domain.tiling import Box

Rings = Sequence[Sequence[Sequence[float]]]
Cell = str | int | float | None

_NAMESPACE = uuid.UUID("0b8a4a1c-3d0f-5f0e-8f5e-6d7061710000")
_DECIMALS: Final = 4
_COLOUR = [255, 191, 0]
# As they are, and as wide characters, which some spreadsheets take for the same.
_FORMULA: Final = tuple("=+-@\uff1d\uff0b\uff0d\uff20")
_CONTROL: Final = ("\t", "\r", "\n")


@dataclass(frozen=True)
class QueuedRegion:
    """One region: the Review ``box`` and the outline's ``rings``, the outer one first, in pixels of the tile's picture;
    factors as the model gave them."""

    region_id: int
    box: Box
    rings: Rings
    area_px: int
    predicted_class: str
    mean_confidence: float
    uncertainty: float
    margin: float
    impurity: float
    disagreement: float


@dataclass(frozen=True)
class QueuedTile:
    """One entry with its regions in order. ``box`` in level-0 pixels, ``size_px`` (width, height) of its picture."""

    rank: int
    tile_id: int
    image: str
    image_sha256: str
    group: str
    split: str
    stratum: str
    state: str
    score: float
    noise: float
    propensity: float
    round: int
    reasons: tuple[str, ...]
    box: Box
    size_px: tuple[int, int]
    regions: tuple[QueuedRegion, ...]

    @property
    def factors(self) -> tuple[float, float]:
        """Level-0 pixels per pixel of the picture, horizontally and vertically."""
        return self.box.width_px / self.size_px[0], self.box.height_px / self.size_px[1]


def csv_lines(tiles: Sequence[QueuedTile], *, header: bool = True) -> str:
    """One line per region, and one for a tile without any: it is asked for whole. Level-0 pixels."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    if header:
        writer.writerow(COLUMNS)
    for tile in tiles:
        for cells in _rows(tile):
            writer.writerow([_harmless(cell) for cell in cells])
    return buffer.getvalue()


COLUMNS: Final = (
    "rank",
    "tile_id",
    "image",
    "group",
    "split",
    "stratum",
    "state",
    "score",
    "noise",
    "propensity",
    "round",
    "tile_x_px",
    "tile_y_px",
    "tile_width_px",
    "tile_height_px",
    "region",
    "region_id",
    "x_px",
    "y_px",
    "width_px",
    "height_px",
    "area_px",
    "predicted_class",
    "mean_confidence",
    "uncertainty",
    "margin",
    "impurity",
    "disagreement",
    "reasons",
)


def _rows(tile: QueuedTile) -> Iterator[list[Cell]]:
    box = tile.box
    entry: list[Cell] = [tile.rank, tile.tile_id, tile.image, tile.group, tile.split, tile.stratum, tile.state]
    entry += [tile.score, tile.noise, tile.propensity, tile.round, box.x_px, box.y_px, box.width_px, box.height_px]
    why = "; ".join(tile.reasons)
    if not tile.regions:
        yield [*entry, *[None] * (len(COLUMNS) - len(entry) - 1), why]
    for number, region in enumerate(tile.regions, start=1):
        place: list[Cell] = [number, region.region_id, *level0_box(region.box, tile)]
        factors = [
            region.mean_confidence,
            region.uncertainty,
            region.margin,
            region.impurity,
            region.disagreement,
        ]
        yield [*entry, *place, level0_area_px(region, tile), region.predicted_class, *factors, why]


def level0_area_px(region: QueuedRegion, tile: QueuedTile) -> float:
    """The region's area in level-0 pixels."""
    x, y = tile.factors
    return _near(region.area_px * x * y)


def level0_box(box: Box, tile: QueuedTile) -> tuple[float, float, float, float]:
    """Left, top, width and height in pixels of its image of a box of the tile's picture."""
    x, y = tile.factors
    left, top = tile.box.x_px + box.x_px * x, tile.box.y_px + box.y_px * y
    return _near(left), _near(top), _near(box.width_px * x), _near(box.height_px * y)


def level0_rings(rings: Rings, tile: QueuedTile) -> list[list[tuple[float, float]]]:
    """Rings of the tile's picture in pixels of its image."""
    x, y = tile.factors
    return [[(_near(tile.box.x_px + px * x), _near(tile.box.y_px + py * y)) for px, py in ring] for ring in rings]


def features(tile: QueuedTile) -> list[dict[str, Any]]:
    """One GeoJSON feature per region, and for a tile without any its own outline: it is asked for whole.

    QuPath shows the measurements; name, rank, reasons and tile are in the metadata, which it keeps.
    """
    if not tile.regions:
        width, height = tile.size_px
        whole = [[(0, 0), (width, 0), (width, height), (0, height), (0, 0)]]
        return [_feature(tile, whole, f"{tile.rank}", {}, {})]
    found = []
    for number, region in enumerate(tile.regions, start=1):
        measured = {
            "area_px": level0_area_px(region, tile),
            "mean_confidence": region.mean_confidence,
            "uncertainty": region.uncertainty,
            "margin": region.margin,
            "impurity": region.impurity,
            "disagreement": region.disagreement,
        }
        told = {"region_id": str(region.region_id), "predicted_class": region.predicted_class}
        found.append(_feature(tile, region.rings, f"{tile.rank}.{number}", measured, told))
    return found


def _feature(
    tile: QueuedTile, rings: Rings, name: str, measured: dict[str, float], told: dict[str, str]
) -> dict[str, Any]:
    placed = level0_rings(rings, tile)
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, f"{tile.image_sha256}:{placed}")),
        "geometry": {"type": "Polygon", "coordinates": [[list(point) for point in ring] for ring in placed]},
        "properties": {
            "objectType": "annotation",
            "name": f"queue {name}",
            "classification": {"name": "Queued", "color": _COLOUR},
            "isLocked": True,
            "measurements": {
                "rank": tile.rank,
                "score": tile.score,
                "noise": tile.noise,
                "propensity": tile.propensity,
                **measured,
            },
            "metadata": {
                "image": tile.image,
                "tile": str(tile.tile_id),
                "group": tile.group,
                "split": tile.split,
                "stratum": tile.stratum,
                "state": tile.state,
                "round": str(tile.round),
                "reasons": "; ".join(tile.reasons),
                **told,
            },
        },
    }


def _near(value: float) -> float:
    near = round(float(value), _DECIMALS)
    return int(near) if near.is_integer() else near


def _harmless(cell: Cell) -> Cell:
    if not isinstance(cell, str):
        return cell
    risky = cell.lstrip().startswith(_FORMULA) or cell.startswith(_CONTROL)
    return f"'{cell}" if risky else cell
