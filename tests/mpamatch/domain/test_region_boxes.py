from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import box as shapely_box

from mpamatch.domain.region_boxes import grown_box, without_overlapping
from mpamatch.domain.tiling import Box

sides = st.integers(1, 60)


@st.composite
def areas(draw):
    """Slices of a grid, its scale, the tile's size, and the least side of a box."""
    scale = draw(st.sampled_from([1.0, 2.0, 3.5]))
    slices = []
    size = []
    for _ in range(2):
        cells = draw(st.integers(1, 80))
        start = draw(st.integers(0, cells - 1))
        slices.append(slice(start, draw(st.integers(start + 1, cells))))
        size.append(max(1, round(cells * scale) - draw(st.integers(0, 1))))
    return tuple(slices), scale, (size[1], size[0]), draw(st.sampled_from([0.0, 10.0, 96.0]))


@settings(max_examples=200, deadline=None)
@given(areas())
def test_a_box_holds_its_area_lies_in_the_tile_and_is_no_larger_than_it_must_be(case) -> None:
    (rows, columns), scale, (width, height), least = case
    found = grown_box((rows, columns), scale, (width, height), least)
    for start, length, cells, whole in (
        (found.x_px, found.width_px, columns, width),
        (found.y_px, found.height_px, rows, height),
    ):
        held = min(whole, -(-cells.stop * scale // 1)) - min(whole - 1, cells.start * scale // 1)
        assert start <= cells.start * scale or start == whole - 1
        assert start + length >= min(whole, cells.stop * scale)
        assert 0 <= start < start + length <= whole
        assert length == max(held, min(least, whole), 1)


def test_a_small_area_lies_in_the_middle_of_its_box_unless_the_tile_ends() -> None:
    assert grown_box((slice(50, 60), slice(100, 110)), 2.0, (1000, 1000), 96) == Box(162, 62, 96, 96)
    assert grown_box((slice(0, 10), slice(490, 500)), 2.0, (1000, 1000), 96) == Box(904, 0, 96, 96)
    assert grown_box((slice(0, 10), slice(0, 10)), 1.0, (64, 300), 96) == Box(0, 0, 64, 96)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.builds(Box, sides, sides, sides, sides), max_size=12),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.integers(0, 12),
)
def test_greedy_suppression_is_what_a_slow_loop_over_shapes_does(boxes: list[Box], most: float, count: int) -> None:
    shapes = [shapely_box(b.x_px, b.y_px, b.x_px + b.width_px, b.y_px + b.height_px) for b in boxes]
    expected: list[int] = []
    for index, shape in enumerate(shapes):
        overlaps = [shape.intersection(shapes[k]).area / shape.union(shapes[k]).area for k in expected]
        if all(overlap <= most + 1e-12 for overlap in overlaps):
            expected.append(index)
    assert without_overlapping(boxes, most, count) == expected[:count]


def test_the_first_of_two_on_each_other_stays() -> None:
    first, beside, far = Box(0, 0, 96, 96), Box(10, 0, 96, 96), Box(200, 0, 96, 96)
    assert without_overlapping([first, beside, far], 0.3, 9) == [0, 2]
    assert without_overlapping([beside, first], 0.3, 9) == [0]
    assert without_overlapping([first, Box(60, 0, 96, 96)], 0.3, 9) == [0, 1]
    assert without_overlapping([], 0.3, 9) == []
    assert without_overlapping([first, first], 1.0, 9) == [0, 1]
