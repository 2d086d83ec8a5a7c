"""Where the number of each region stands on a tile's picture: inside its outline, or else touching it.

A number has to be read as that of its own region, and two of them never on each other. A region with room for its
number has it in the middle of its widest place; a smaller one has it beside its topmost, rightmost, lowest or leftmost
point, wherever it lies least on other numbers and, after that, on other regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import shapely

from backend.actions.see_tile import SeenRegion

MOST: Final = 40
# Shares of the tile's longer side, and of the size of the letters.
_LETTERS, _CASING = 0.044, 0.011
_DIGIT_WIDTH, _DIGIT_HEIGHT = 0.65, 0.74


@dataclass(frozen=True)
class Numeral:
    """A region's number; ``x_px`` is its middle and ``y_px`` where its digits stand, in pixels of the tile."""

    number: int
    x_px: float
    y_px: float


@dataclass(frozen=True)
class Numerals:
    """Those of a tile's first regions, the size of the letters and the width of the line around them, in its pixels."""

    letters_px: float
    casing_px: float
    each: tuple[Numeral, ...]


@dataclass(frozen=True)
class _Room:
    """How much a number takes, and where it may be."""

    width: float
    height: float
    tile_width: int
    tile_height: int

    def at(self, x: float, y: float) -> shapely.Polygon:
        """A number in the middle of x, y, or as near to it as the tile allows."""
        x = min(max(x, self.width / 2), self.tile_width - self.width / 2)
        y = min(max(y, self.height / 2), self.tile_height - self.height / 2)
        return shapely.box(x - self.width / 2, y - self.height / 2, x + self.width / 2, y + self.height / 2)


def numerals(regions: Sequence[SeenRegion], width_px: int, height_px: int) -> Numerals:
    """For the first 40 regions of a tile of that size."""
    side = max(width_px, height_px)
    letters, casing = side * _LETTERS, side * _CASING
    shapes = [_shape(region) for region in regions]
    placed: list[shapely.Polygon] = []
    each = []
    for n, region in enumerate(regions[:MOST]):
        width = len(str(region.number)) * _DIGIT_WIDTH * letters
        room = _Room(width + casing, _DIGIT_HEIGHT * letters + casing, width_px, height_px)
        box = _best(_places(shapes[n], room), placed, [*shapes[:n], *shapes[n + 1 :]])
        placed.append(box)
        left, _, right, bottom = box.bounds
        each.append(Numeral(region.number, round((left + right) / 2, 2), round(bottom - casing / 2, 2)))
    return Numerals(round(letters, 2), round(casing, 2), tuple(each))


def _shape(region: SeenRegion) -> shapely.Geometry:
    valid = shapely.make_valid(shapely.Polygon(region.rings[0], region.rings[1:]))
    # Of a ring that touches itself there may be lines beside the areas; no number stands in a line.
    areas = [part for part in shapely.get_parts(valid) if part.area]
    return shapely.union_all(areas) if areas else valid


def _places(shape: shapely.Geometry, room: _Room) -> list[shapely.Polygon]:
    """Where its number may stand, the best first."""
    points = shapely.get_coordinates(shape)
    # What has no area, a line or a point, has no widest place either.
    widest = shapely.maximum_inscribed_circle(shape, tolerance=room.height / 10) if shape.area else None
    middle = room.at(*(points[0] if widest is None else widest.coords[0]))
    top, right = points[points[:, 1].argmin()], points[points[:, 0].argmax()]
    low, left = points[points[:, 1].argmax()], points[points[:, 0].argmin()]
    across, down = room.width / 2, room.height / 2
    # Over each point first, and where another number is in the way, to one side of it.
    beside = [
        room.at(x + across * to_right, y + down * to_below)
        for aside in (0, -1, 1)
        for (x, y), to_right, to_below in (
            (top, aside, -1),
            (right, 1, aside),
            (low, aside, 1),
            (left, -1, aside),
        )
    ]
    fits = widest is not None and widest.length >= math.hypot(room.width, room.height) / 2
    return [middle, *beside] if fits else [*beside, middle]


def _best(
    places: Sequence[shapely.Polygon], placed: Sequence[shapely.Polygon], others: Sequence[shapely.Geometry]
) -> shapely.Polygon:
    def covers(place: shapely.Polygon) -> tuple[float, float]:
        on_numbers, on_regions = (
            sum(place.intersection(one).area for one in those if place.intersects(one)) for those in (placed, others)
        )
        return round(on_numbers, 6), round(on_regions, 6)

    return min(places, key=covers)
