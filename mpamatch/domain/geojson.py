"""Masks of an image as GeoJSON in level-0 pixels, as QuPath reads and writes it, and back.

A FeatureCollection of annotations: one object per connected area of a class, and one ``Region*`` per tile for what was
reviewed. Background is what was reviewed and lies in no object; elsewhere nothing is known (255). Each of our objects
names its tile in its metadata, which QuPath keeps, so that none paints into the tile beside it.

Source: RFC 7946 for the geometry (coordinates here are pixels, y down, as QuPath has them); QuPath's GeoJSON for
``objectType``, ``classification`` and ``metadata``.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from mpamatch.domain.classes import IGNORE, ClassSet
from mpamatch.domain.masks import Mask
from mpamatch.domain.outlines import TileFrame, outlines, reviewed_area
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput

REVIEWED = "Region*"
_REVIEWED_COLOUR = [180, 180, 180]
_NAMESPACE = uuid.UUID("6f6d1a0e-6a5c-5b0f-9b5e-6d70616d6174")
_DECIMALS = 4
_REMEDY_SIZE = "export at the full resolution of this image"


@dataclass(frozen=True)
class TileMask:
    """A tile's place and its mask, with what people want to know of it."""

    frame: TileFrame
    mask: Mask
    origin: str = "imported"
    version: int = 1


def to_geojson(
    name: str, sha256: str, size_px: tuple[int, int], tiles: Sequence[TileMask], classes: ClassSet
) -> dict[str, Any]:
    """The masks of one image. Ids follow from the image, the tile, the class and the outline: unchanged work keeps its
    ids, whenever it is written."""
    found = [feature for tile in tiles for feature in _features(sha256, tile, classes)]
    return {
        "type": "FeatureCollection",
        "features": found,
        "image": {"name": name, "sha256": sha256, "width_px": size_px[0], "height_px": size_px[1]},
    }


def _features(sha256: str, tile: TileMask, classes: ClassSet) -> list[dict[str, Any]]:
    reviewed = reviewed_area(tile.mask)
    found = []
    if reviewed is not None:
        found.append(_feature(sha256, tile, reviewed, REVIEWED, _REVIEWED_COLOUR, locked=True))
    for one in outlines(tile.mask):
        tissue_class = classes.classes[one.class_id]
        colour = list(bytes.fromhex(tissue_class.colour.removeprefix("#")))
        found.append(_feature(sha256, tile, one.polygon, tissue_class.name, colour, locked=False))
    return found


def _feature(
    sha256: str, tile: TileMask, geometry: BaseGeometry, name: str, colour: list[int], *, locked: bool
) -> dict[str, Any]:
    placed = _rounded(mapping(tile.frame.to_level0(geometry)))
    key = f"{sha256}:{_tile_word(tile.frame.box)}:{name}:{placed['coordinates']}"
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, key)),
        "geometry": placed,
        "properties": {
            "objectType": "annotation",
            "classification": {"name": name, "color": colour},
            "isLocked": locked,
            "metadata": {"tile": _tile_word(tile.frame.box), "origin": tile.origin, "version": str(tile.version)},
        },
    }


def _rounded(geometry: Mapping[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return [plain(v) for v in value]
        near = round(float(value), _DECIMALS)
        return int(near) if near.is_integer() else near

    return {"type": geometry["type"], "coordinates": plain(geometry["coordinates"])}


def _tile_word(box: Box) -> str:
    return f"{box.x_px},{box.y_px},{box.width_px},{box.height_px}"


@dataclass(frozen=True)
class _Object:
    """One object of a file: its class id (None for the reviewed area), its place, and the tile that it was made on."""

    class_id: int | None
    geometry: BaseGeometry
    tile: str | None


@dataclass(frozen=True)
class Placed:
    """What a file says of an image. ``masks`` in the order of the tiles, None where it says nothing of one.

    ``cut`` counts objects that reach beyond the tile they belong to; what lies outside of it is in no mask.
    """

    masks: tuple[Mask | None, ...]
    cut: int


def from_geojson(
    values: Any, item: str, size_px: tuple[int, int], frames: Sequence[TileFrame], classes: ClassSet
) -> Placed:
    """Class ids for each tile of an image.

    Later objects lie over earlier ones. An object that names a tile of this image paints in that tile alone, any
    other in every tile that it touches. Where the file has ``Region*`` objects they say what was reviewed; without
    any, the tiles that an object touches were reviewed whole.

    Raises BadInput naming ``item``: no FeatureCollection, an unknown class, an object without class, a shape that is
    no area, one that lies beyond the image (the file of another image, or of another resolution).
    """
    objects = _objects(values, item, classes)
    if not objects:
        raise BadInput(item, "holds no object", "draw on it, or leave it out")
    _check_inside(objects, item, size_px)
    by_word = {_tile_word(frame.box): frame for frame in frames}
    tree = shapely.STRtree([o.geometry for o in objects])
    bounded = any(o.class_id is None for o in objects)
    masks = []
    for frame in frames:
        word = _tile_word(frame.box)
        near = [objects[i] for i in sorted(tree.query(frame.outline, predicate="intersects"))]
        masks.append(_mask_of(frame, [o for o in near if o.tile == word or o.tile not in by_word], bounded))
    drawn = [o for o in objects if o.class_id is not None]
    beyond = [o for o in drawn if o.tile in by_word and _reaches_beyond(o.geometry, by_word[o.tile])]
    return Placed(tuple(masks), len(beyond))


def _mask_of(frame: TileFrame, objects: Sequence[_Object], bounded: bool) -> Mask | None:
    """What some objects say of a tile. ``bounded``: the file has reviewed areas, and background is only in those."""
    # Reviewed areas lie below everything that is drawn.
    order = sorted(objects, key=lambda o: o.class_id is not None)
    mask = frame.painted([(o.geometry, o.class_id or 0) for o in order])
    if not bounded and (mask != IGNORE).any():
        mask[mask == IGNORE] = 0
    return mask if (mask != IGNORE).any() else None


def _reaches_beyond(geometry: BaseGeometry, frame: TileFrame) -> bool:
    left, top, right, bottom = geometry.bounds
    box = frame.box
    return bool(
        left < box.x_px - 0.5
        or top < box.y_px - 0.5
        or right > box.x_px + box.width_px + 0.5
        or bottom > box.y_px + box.height_px + 0.5
    )


def _objects(values: Any, item: str, classes: ClassSet) -> list[_Object]:
    if isinstance(values, Mapping) and values.get("type") == "Feature":
        values = [values]
    features = values.get("features") if isinstance(values, Mapping) else values
    if not isinstance(features, list) or not all(isinstance(f, Mapping) for f in features):
        raise BadInput(item, "is no GeoJSON FeatureCollection", "export it as GeoJSON")
    ids = {c.name.casefold(): c.id for c in classes.classes}
    _check_names(features, item, ids, classes)
    return [_object(feature, item, ids) for feature in features]


def _check_names(features: Sequence[Mapping[str, Any]], item: str, ids: Mapping[str, int], classes: ClassSet) -> None:
    """Every name is looked at first, so that one line can tell all that are unknown."""
    names = [_class_name(feature) for feature in features]
    nameless = sum(name is None for name in names)
    if nameless:
        raise BadInput(item, f"{nameless} objects have no class", f"give each one of: {', '.join(classes.names)}")
    unknown = sorted({n for n in names if n is not None and n != REVIEWED and n.casefold() not in ids})
    if unknown:
        shown = ", ".join(repr(name[:80]) for name in unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise BadInput(item, f"unknown class {shown}", f"known classes: {', '.join(classes.names)}")


def _class_name(feature: Mapping[str, Any]) -> str | None:
    properties = feature.get("properties")
    classification = properties.get("classification") if isinstance(properties, Mapping) else None
    name = classification.get("name") if isinstance(classification, Mapping) else classification
    return name if isinstance(name, str) and name else None


def _object(feature: Mapping[str, Any], item: str, ids: Mapping[str, int]) -> _Object:
    name = _class_name(feature)
    assert name is not None
    metadata = feature["properties"].get("metadata")
    tile = metadata.get("tile") if isinstance(metadata, Mapping) else None
    geometry = _geometry(feature.get("geometry"), item)
    class_id = None if name == REVIEWED else ids[name.casefold()]
    return _Object(class_id, geometry, tile if isinstance(tile, str) else None)


def _geometry(value: Any, item: str) -> BaseGeometry:
    kind = value.get("type") if isinstance(value, Mapping) else None
    if kind not in ("Polygon", "MultiPolygon"):
        raise BadInput(item, f"an object is a {kind or 'shape of no kind'}, no area", "draw areas, or leave it out")
    try:
        geometry = shape(value)
        if geometry.is_empty or not all(math.isfinite(v) for v in geometry.bounds):
            raise BadInput(item, "an object has no place", "draw it again, or leave it out")
        return geometry if geometry.is_valid else _areas_of(shapely.make_valid(geometry))
    except (ShapelyError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        raise BadInput(item, f"an object's outline is damaged ({error})"[:200], "export it again") from error


def _areas_of(geometry: BaseGeometry) -> BaseGeometry:
    """What mending left of an outline that crosses itself, without the lines and points."""
    parts = [p for p in shapely.get_parts(geometry) if p.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts)


def _check_inside(objects: Sequence[_Object], item: str, size_px: tuple[int, int]) -> None:
    bounds = np.array([o.geometry.bounds for o in objects])
    left, top = bounds[:, :2].min(axis=0)
    right, bottom = bounds[:, 2:].max(axis=0)
    # QuPath lets an outline hang over the border by what a hand may slip.
    slack = max(2.0, 0.01 * max(size_px))
    if left < -slack or top < -slack or right > size_px[0] + slack or bottom > size_px[1] + slack:
        problem = f"reaches to {right:.0f}, {bottom:.0f} px, but its image has {size_px[0]} x {size_px[1]} px"
        raise BadInput(item, problem, _REMEDY_SIZE)
