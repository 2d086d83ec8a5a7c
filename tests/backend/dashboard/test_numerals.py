"""Numbers of regions stand in or at their outlines, wherever the Review box begins, and not on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import shapely

from backend.actions.see_tile import SeenRegion
from backend.dashboard.numerals import MOST, Numerals, numerals

SIDE = 500
Ring = Sequence[tuple[float, float]]


def region(number: int, *rings: Ring) -> SeenRegion:
    """With a Review box that begins elsewhere, as it does around a small outline."""
    closed = tuple((*ring, ring[0]) for ring in rings)
    return SeenRegion(number, 0, 0, closed, 100, 0.5, 0.5, 0.1, 0.2, 0.0, "gland", None)


def square(number: int, x: float, y: float, side: float) -> SeenRegion:
    return region(number, [(x, y), (x + side, y), (x + side, y + side), (x, y + side)])


def drawn(found: Numerals) -> list[shapely.Polygon]:
    """What each number covers, the line around it left out."""
    boxes = []
    for one in found.each:
        half = len(str(one.number)) * 0.3 * found.letters_px
        boxes.append(shapely.box(one.x_px - half, one.y_px - 0.74 * found.letters_px, one.x_px + half, one.y_px))
    return boxes


def shape(one: SeenRegion) -> shapely.Polygon:
    return shapely.Polygon(one.rings[0], one.rings[1:])


def test_a_number_stands_inside_a_region_that_has_room_for_it() -> None:
    large = square(1, 100, 200, 120)
    (box,) = drawn(numerals([large], SIDE, SIDE))
    assert shape(large).contains(box)


@pytest.mark.parametrize(
    ("x", "y"), [(250, 250), (0, 0), (496, 0), (0, 496), (496, 496), (0, 250), (496, 250), (250, 0), (250, 496)]
)
def test_a_number_touches_a_region_that_is_smaller_and_stays_on_the_tile(x: float, y: float) -> None:
    small = square(12, x, y, 4)
    found = numerals([small], SIDE, SIDE)
    (box,) = drawn(found)
    assert box.distance(shape(small)) <= found.casing_px
    assert shapely.box(0, 0, SIDE, SIDE).contains(box)


def test_numbers_of_regions_that_lie_close_together_do_not_lie_on_each_other() -> None:
    close = [square(n + 1, 200 + 18 * (n % 3), 200 + 18 * (n // 3), 6) for n in range(6)]
    found = numerals(close, SIDE, SIDE)
    boxes = drawn(found)
    assert all(not a.intersects(b) for n, a in enumerate(boxes) for b in boxes[n + 1 :])
    assert all(box.distance(shape(one)) <= found.casing_px for box, one in zip(boxes, close, strict=True))


def test_a_number_beside_its_region_is_not_on_another_one() -> None:
    above, below = square(1, 200, 150, 60), square(2, 220, 212, 8)
    _, box = drawn(numerals([above, below], SIDE, SIDE))
    assert not box.intersects(shape(above))


def test_a_rim_has_its_number_at_its_line_and_not_in_the_hole() -> None:
    outer = [(100, 100), (300, 100), (300, 300), (100, 300)]
    hole = [(104, 104), (296, 104), (296, 296), (104, 296)]
    rim = region(1, outer, hole)
    found = numerals([rim], SIDE, SIDE)
    (box,) = drawn(found)
    assert box.distance(shape(rim)) <= found.casing_px
    assert not box.within(shapely.Polygon(hole))


def test_a_line_that_crosses_itself_and_very_many_regions_are_fine() -> None:
    crossed = region(1, [(10, 10), (60, 60), (60, 10), (10, 60)])
    flat = region(2, [(10, 10), (60, 10), (30, 10)])
    assert len(numerals([crossed, flat], SIDE, SIDE).each) == 2
    many = [replace(square(n, n, n, 5), number=n + 1) for n in range(MOST + 5)]
    assert [one.number for one in numerals(many, SIDE, SIDE).each] == list(range(1, MOST + 1))
    assert numerals([], SIDE, SIDE).each == ()


def test_a_ring_with_a_spike_gets_its_number_where_its_area_is() -> None:
    spiked = region(1, [(100, 100), (200, 100), (200, 200), (400, 200), (200, 200), (100, 200)])
    (box,) = drawn(numerals([spiked], SIDE, SIDE))
    assert shapely.box(100, 100, 200, 200).contains(box)
    holed = region(2, [(0, 0), (90, 0), (90, 90), (0, 90)], [(0, 0), (90, 0), (90, 90), (0, 90)])
    assert numerals([holed], SIDE, SIDE).each
