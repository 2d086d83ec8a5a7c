"""How a region's value says which pixels it covers: brush, bitmask, polygon, rectangle; both ways.

A pixel belongs to an outline when its centre lies inside (even-odd), so outlines that follow pixel edges read back
exactly. Those that people see are drawn with fewer corners, since each corner is a handle in the editor. Percent of the
image in JSON, pixels in arrays.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from backend.labelstudio.rle import decode_rle, encode_rle
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput

Mask = NDArray[np.bool_]
Point = tuple[float, float]
Corner = tuple[int, int]

ALPHA_THRESHOLD: Final = 128  # browsers draw with soft edges
# Per side of a pixel: the neighbour, and the corners from and to which the edge runs with the pixel on its right.
_SIDES: Final = (
    (-1, 0, (0, 0), (1, 0)),
    (0, 1, (1, 0), (1, 1)),
    (1, 0, (1, 1), (0, 1)),
    (0, -1, (0, 1), (0, 0)),
)
# An outline along pixel edges has a corner per step. Up to FEW_CORNERS it stays exact; longer ones may leave the edge
# by TOLERANCE_PX, and by twice as much until at most MOST_CORNERS are left; but no further once both would share less
# than LEAST_IOU of what either covers: a large area with many holes has more corners and keeps its form.
TOLERANCE_PX: Final = 0.75  # 1 px cost small glands of a 256 px tile up to 3.5 % of their IoU
FEW_CORNERS: Final = 24
MOST_CORNERS: Final = 300
LEAST_IOU: Final = 0.95
_COARSEST_PX: Final = 16.0
_PNG_PREFIX: Final = "data:image/png;base64,"


def write_brush(mask: Mask) -> dict[str, Any]:
    """The value of a brush region, without its label."""
    return {"format": "rle", "rle": encode_rle(mask)}


def read_brush(value: dict[str, Any], width: int, height: int) -> Mask:
    """Raises BadInput for another format or a damaged list."""
    if value.get("format", "rle") != "rle" or not isinstance(value.get("rle"), list):
        raise BadInput("value.rle", "is missing or no list", "send the run lengths as a list of bytes")
    return decode_rle(value["rle"], width, height) >= ALPHA_THRESHOLD


def write_bitmask(mask: Mask, colour: str) -> dict[str, Any]:
    """The value of a bitmask region, without its label: an RGBA PNG of the image's size as a data URL."""
    rgb = bytes.fromhex(colour.removeprefix("#"))
    pixels = np.zeros((*mask.shape, 4), np.uint8)
    pixels[mask] = (*rgb, 255)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG", compress_level=6)
    return {"imageDataURL": _PNG_PREFIX + base64.b64encode(out.getvalue()).decode("ascii")}


def read_bitmask(value: dict[str, Any], width: int, height: int) -> Mask:
    """Alpha decides, since the browser draws in black. Raises BadInput for anything but a PNG of that size."""
    url = value.get("imageDataURL")
    if not isinstance(url, str) or not url.startswith(_PNG_PREFIX):
        raise BadInput("value.imageDataURL", "is no PNG data URL", f"begin with {_PNG_PREFIX}")
    try:
        data = base64.b64decode(url[len(_PNG_PREFIX) :], validate=True)
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size != (width, height):  # known from the header, before anything is unpacked
                problem = f"is {image.size[0]} x {image.size[1]} px, not {width} x {height}"
                raise BadInput("value.imageDataURL", problem, "the mask's size must be that of the image")
            alpha = np.asarray(image.convert("RGBA").getchannel("A"))
    except (binascii.Error, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput("value.imageDataURL", f"cannot be read ({error})", "send the region again") from error
    return alpha >= ALPHA_THRESHOLD


def write_polygons(mask: Mask, tolerance_px: float = TOLERANCE_PX) -> list[dict[str, Any]]:
    """Values of polygon regions, without labels: one per connected area; a hole is joined by a cut of no width.

    ``tolerance_px``: how far an outline may leave the pixels' edges to have fewer corners; 0: exact.
    """
    height, width = mask.shape
    labels, _ = ndimage.label(mask)
    values = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        ring = _joined(_simplified(_outlines(labels[rows, columns] == number), tolerance_px))
        points = [[100 * (x + columns.start) / width, 100 * (y + rows.start) / height] for x, y in ring]
        values.append({"points": points, "closed": True})
    return values


def read_polygon(value: dict[str, Any], width: int, height: int) -> Mask:
    """Raises BadInput for fewer than three points or numbers that are none."""
    points = value.get("points")
    if not isinstance(points, list) or len(points) < 3:
        raise BadInput("value.points", "are fewer than three points", "draw the outline again")
    pixels = []
    for point in points:
        if not isinstance(point, list) or len(point) != 2:
            raise BadInput("value.points", f"hold {point!r}", "give pairs of numbers")
        x, y = (_number(p, "value.points") for p in point)
        pixels.append((x * width / 100, y * height / 100))
    return fill_outline(pixels, width, height)


def write_rectangle(box: Box, width: int, height: int) -> dict[str, Any]:
    """The value of a rectangle region, without its label."""
    return {
        "x": 100 * box.x_px / width,
        "y": 100 * box.y_px / height,
        "width": 100 * box.width_px / width,
        "height": 100 * box.height_px / height,
        "rotation": 0,
    }


def read_rectangle(value: dict[str, Any], width: int, height: int) -> Mask:
    """Turned rectangles too (degrees clockwise about the top left). Raises BadInput for numbers that are none."""
    x, y, w, h = (_number(value.get(key), f"value.{key}") for key in ("x", "y", "width", "height"))
    turn = math.radians(_number(value.get("rotation") or 0, "value.rotation"))
    left, top, wide, high = x * width / 100, y * height / 100, w * width / 100, h * height / 100
    across = (wide * math.cos(turn), wide * math.sin(turn))
    down = (-high * math.sin(turn), high * math.cos(turn))
    corners = [
        (left, top),
        (left + across[0], top + across[1]),
        (left + across[0] + down[0], top + across[1] + down[1]),
        (left + down[0], top + down[1]),
    ]
    return fill_outline(corners, width, height)


def fill_outline(points: Sequence[Point], width: int, height: int) -> Mask:
    """Pixels (height, width) whose centre lies inside the closed outline, by the even-odd rule. Points in pixels."""
    toggles = np.zeros((height, width + 1), np.uint8)
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        if y0 > y1:
            x0, y0, x1, y1 = x1, y1, x0, y0
        # Rows whose centre lies in [y0, y1): each crossing counts once, also where two edges meet.
        first, last = max(math.ceil(y0 - 0.5), 0), min(math.ceil(y1 - 0.5), height)
        if first >= last:
            continue
        rows = np.arange(first, last)
        crossing = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        np.add.at(toggles, (rows, np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)), 1)
    inside: Mask = (np.cumsum(toggles, axis=1, dtype=np.uint8) & 1).astype(bool)[:, :width]
    return inside


SEGMENTATION: Final = {"brushlabels": read_brush, "bitmasklabels": read_bitmask, "polygonlabels": read_polygon}


def _number(value: Any, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > 1e6:
        raise BadInput(field, f"is {value!r}", "give a number in percent of the image")
    return float(value)


def _outlines(mask: Mask) -> list[list[Corner]]:
    """Rings along the pixel edges of one connected area: the outer one first, then holes; inside to the right."""
    padded = np.pad(mask, 1)
    onward: dict[Corner, list[Corner]] = {}
    for dy, dx, start, end in _SIDES:
        edge = mask & ~padded[1 + dy : 1 + dy + mask.shape[0], 1 + dx : 1 + dx + mask.shape[1]]
        for y, x in np.argwhere(edge).tolist():
            onward.setdefault((x + start[0], y + start[1]), []).append((x + end[0], y + end[1]))
    rings = []
    while onward:
        rings.append(_ring(onward))
    rings.sort(key=_area, reverse=True)
    return [rings[0], *sorted(rings[1:], key=min)]


def _ring(onward: dict[Corner, list[Corner]]) -> list[Corner]:
    """Take one ring out of the edges; where two areas touch at a corner it turns right and stays with its own."""
    start = min(onward)
    ring: list[Corner] = []
    at, before = start, (start[0], start[1] + 1)
    while True:
        ends = onward[at]
        step = (at[0] - before[0], at[1] - before[1])
        right = (at[0] - step[1], at[1] + step[0])
        following = right if right in ends else ends[0]
        ends.remove(following)
        if not ends:
            del onward[at]
        if not ring or (following[0] - at[0], following[1] - at[1]) != step:
            ring.append(at)  # only corners where the direction changes
        before, at = at, following
        if at == start:
            return ring


def _area(ring: Sequence[Corner]) -> float:
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(ring, [*ring[1:], ring[0]], strict=True)) / 2


def _simplified(rings: list[list[Corner]], tolerance_px: float) -> Sequence[Sequence[Point]]:
    """The rings with fewer corners, none crossing another; as they are where they are few."""
    corners = sum(map(len, rings))
    if tolerance_px <= 0 or corners <= FEW_CORNERS:
        return rings
    from shapely.geometry import Polygon  # a process that never draws outlines does without it

    area, found = Polygon(rings[0], rings[1:]), rings
    if not area.is_valid:  # a ring that touches itself at a corner: as an outer ring and a hole it is the same area
        whole, area = area.area, area.buffer(0)
        if area.geom_type != "Polygon" or abs(area.area - whole) > 1e-6:
            return rings
    while tolerance_px <= _COARSEST_PX:
        simple = area.simplify(tolerance_px, preserve_topology=True)
        if simple.geom_type == "Polygon" and simple.is_valid and len(simple.interiors) == len(area.interiors):
            if found is not rings and simple.intersection(area).area < LEAST_IOU * simple.union(area).area:
                break
            holes = sorted((list(hole.coords)[:-1] for hole in simple.interiors), key=min)
            found = [list(simple.exterior.coords)[:-1], *holes]
        if sum(map(len, found)) <= MOST_CORNERS:
            break
        tolerance_px *= 2
    return found


def _joined(rings: Sequence[Sequence[Point]]) -> list[Point]:
    """One ring: from each hole's leftmost corner a cut runs left to the nearest edge, and back along itself."""
    outer = list(rings[0])
    for hole in rings[1:]:
        corner = min(hole)
        at, meeting = _edge_to_the_left(outer, corner)
        begin = hole.index(corner)
        outer[at + 1 : at + 1] = [meeting, *hole[begin:], *hole[: begin + 1], meeting]
    return outer


def _edge_to_the_left(ring: Sequence[Point], corner: Point) -> tuple[int, Point]:
    best, where = -1.0, -1
    for at, ((x0, y0), (x1, y1)) in enumerate(zip(ring, [*ring[1:], ring[0]], strict=True)):
        if y0 != y1 and min(y0, y1) <= corner[1] <= max(y0, y1):
            x = x0 + (corner[1] - y0) * (x1 - x0) / (y1 - y0)
            # A hole may touch the outline at this very corner: then the cut has no length.
            if best < x <= corner[0]:
                best, where = x, at
    return where, (best, corner[1])
