from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from shapely import contains_xy
from shapely.geometry import Polygon

from backend.labelstudio.shapes import (
    fill_outline,
    read_bitmask,
    read_brush,
    read_polygon,
    read_rectangle,
    write_bitmask,
    write_brush,
    write_polygons,
    write_rectangle,
)
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput

masks = arrays(np.bool_, st.tuples(st.integers(1, 14), st.integers(1, 14)))


def wire(value):
    """As it comes back from the server."""
    return json.loads(json.dumps(value))


@settings(max_examples=300, deadline=None)
@given(masks)
def test_polygons_cover_exactly_the_pixels_they_were_made_from(mask):
    height, width = mask.shape
    read = np.zeros_like(mask)
    for value in write_polygons(mask):
        covered = read_polygon(wire(value), width, height)
        assert not (covered & read).any(), "two outlines share a pixel"
        read |= covered
    assert (read == mask).all()


def test_holes_within_holes_and_touching_corners_are_kept():
    mask = np.zeros((11, 11), bool)
    mask[0:11, 0:11] = True
    mask[1:10, 1:10] = False
    mask[3:8, 3:8] = True
    mask[5, 5] = False
    mask[1, 1] = True
    values = write_polygons(mask)
    assert len(values) == 2
    assert (np.logical_or.reduce([read_polygon(v, 11, 11) for v in values]) == mask).all()


@pytest.mark.parametrize("seed", range(5))
def test_filling_agrees_with_an_independent_geometry_library(seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.random(9)) * 2 * np.pi
    radii = rng.uniform(5, 30, 9)
    points = [(40 + r * np.cos(a), 35 + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)]
    yy, xx = np.mgrid[:70, :80]
    expected = contains_xy(Polygon(points), xx + 0.5, yy + 0.5)
    assert (fill_outline(points, 80, 70) == expected).all()


def test_an_outline_over_the_border_is_cut_at_it():
    assert fill_outline([(-5, -5), (100, -5), (100, 100), (-5, 100)], 7, 4).all()
    assert not fill_outline([(-9, -9), (-1, -9), (-1, -1)], 7, 4).any()


@settings(max_examples=100, deadline=None)
@given(masks)
def test_brush_and_bitmask_survive(mask):
    height, width = mask.shape
    assert (read_brush(wire(write_brush(mask)), width, height) == mask).all()
    assert (read_bitmask(wire(write_bitmask(mask, "#d62728")), width, height) == mask).all()


def test_a_bitmask_has_the_class_colour_and_is_clear_elsewhere():
    value = write_bitmask(np.eye(3, dtype=bool), "#d62728")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(value["imageDataURL"].split(",")[1]))))
    assert pixels[0, 0].tolist() == [0xD6, 0x27, 0x28, 255]
    assert pixels[0, 1].tolist() == [0, 0, 0, 0]


@given(st.integers(1, 200), st.integers(1, 200), st.data())
def test_a_box_reads_back_as_its_own_pixels(width, height, data):
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(x, y, data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y)))
    inside = read_rectangle(wire(write_rectangle(box, width, height)), width, height)
    expected = np.zeros((height, width), bool)
    expected[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px] = True
    assert (inside == expected).all()


def test_a_turned_rectangle_covers_what_it_covers_on_screen():
    value = {"x": 50, "y": 0, "width": 50, "height": 25, "rotation": 90}
    inside = read_rectangle(value, 40, 40)
    expected = np.zeros((40, 40), bool)
    expected[0:20, 10:20] = True
    assert (inside == expected).all()


def png(image: Image.Image, kind: str = "PNG") -> dict[str, str]:
    out = io.BytesIO()
    image.save(out, kind)
    return {"imageDataURL": "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()}


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"imageDataURL": 7},
        {"imageDataURL": "http://example.org/a.png"},
        {"imageDataURL": "data:image/png;base64,@@@"},
        {"imageDataURL": "data:image/png;base64,"},
        {"imageDataURL": "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\nrest").decode()},
        png(Image.new("RGBA", (5, 4))),
        png(Image.new("RGB", (4, 4)), "JPEG"),
    ],
)
def test_a_bitmask_that_is_no_png_of_that_size_is_refused(value):
    with pytest.raises(BadInput, match="imageDataURL"):
        read_bitmask(value, 4, 4)


def test_a_png_cut_short_is_refused():
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 4), dtype=np.uint8)
    whole = base64.b64decode(png(Image.fromarray(noise))["imageDataURL"].split(",")[1])
    half = base64.b64encode(whole[: len(whole) // 2]).decode()
    with pytest.raises(BadInput):
        read_bitmask({"imageDataURL": f"data:image/png;base64,{half}"}, 40, 40)


@pytest.mark.parametrize(
    "points",
    [
        None,
        [],
        [[0, 0], [1, 1]],
        [[0, 0], [1, 1], [2]],
        [[0, 0], [1, 1], ["a", 2]],
        [[0, 0], [1, float("nan")], [2, 2]],
    ],
)
def test_an_outline_of_no_points_is_refused(points):
    with pytest.raises(BadInput, match="points"):
        read_polygon({"points": points}, 10, 10)


@pytest.mark.parametrize("value", [{}, {"format": "png", "rle": [1]}, {"format": "rle", "rle": "AAAA"}])
def test_a_brush_without_run_lengths_is_refused(value):
    with pytest.raises(BadInput, match="rle"):
        read_brush(value, 4, 4)


def test_a_rectangle_without_numbers_is_refused():
    with pytest.raises(BadInput, match="width"):
        read_rectangle({"x": 1, "y": 1, "width": None, "height": 4}, 10, 10)
