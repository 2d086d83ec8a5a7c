from __future__ import annotations

import base64
import contextlib
import io
import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy import ndimage
from shapely import contains_xy
from shapely.geometry import MultiLineString, Polygon

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
    for value in write_polygons(mask, tolerance_px=0):
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
    values = write_polygons(mask, tolerance_px=0)
    assert len(values) == 2
    assert (np.logical_or.reduce([read_polygon(v, 11, 11) for v in values]) == mask).all()


def blobs(seed: int, size: int = 160) -> np.ndarray:
    """Glands with lumens, as a model draws them."""
    noise = np.random.default_rng(seed).standard_normal((size, size))
    return np.abs(ndimage.gaussian_filter(noise, 6.0)) > 0.03


@pytest.mark.parametrize("seed", range(5))
def test_what_people_see_has_few_corners_and_stays_at_the_border(seed):
    mask = blobs(seed)
    exact, shown = write_polygons(mask, tolerance_px=0), write_polygons(mask)
    read = np.logical_or.reduce([read_polygon(wire(v), 160, 160) for v in shown])
    assert sum(len(v["points"]) for v in shown) < 0.5 * sum(len(v["points"]) for v in exact)
    assert len(shown) == len(exact)
    assert iou(read, mask) > 0.95
    border = ndimage.binary_dilation(mask, iterations=2) & ~ndimage.binary_erosion(mask, iterations=2)
    assert not ((read != mask) & ~border).any()


def test_a_large_solid_outline_has_no_more_corners_than_a_person_can_move():
    angle = np.linspace(0, 2 * np.pi, 4000)
    radius = 380 + 30 * np.sin(9 * angle) + 6 * np.sin(70 * angle)
    outline = [(512 + r * np.cos(a), 512 + r * np.sin(a)) for r, a in zip(radius, angle, strict=True)]
    wavy = fill_outline(outline, 1024, 1024)
    (exact,), (shown,) = write_polygons(wavy, tolerance_px=0), write_polygons(wavy)
    assert len(exact["points"]) > 2000
    assert len(shown["points"]) <= 300
    assert iou(read_polygon(wire(shown), 1024, 1024), wavy) > 0.95


@pytest.mark.parametrize("seed", range(3))
def test_a_large_area_with_many_holes_keeps_its_form_and_has_more_corners(seed):
    noise = np.random.default_rng(seed).standard_normal((512, 512))
    perforated = ndimage.gaussian_filter(noise, 5.0) > -0.02
    assert ndimage.label(~perforated)[1] > 50
    shown, exact = write_polygons(perforated), write_polygons(perforated, tolerance_px=0)
    read = np.logical_or.reduce([read_polygon(wire(v), 512, 512) for v in shown])
    assert iou(read, perforated) > 0.95
    assert sum(len(v["points"]) for v in shown) < 0.6 * sum(len(v["points"]) for v in exact)


def iou(read, mask):
    return (read & mask).sum() / (read | mask).sum()


@settings(max_examples=200, deadline=None)
@given(masks)
def test_fewer_corners_never_make_an_outline_that_cannot_be_read(mask):
    height, width = mask.shape
    for value in write_polygons(mask):
        assert len(value["points"]) >= 3
        read_polygon(wire(value), width, height)


@pytest.mark.shared
@pytest.mark.parametrize(("folder", "least"), [("glas", 0.99), ("ebhi", 0.98)])
def test_masks_of_published_tissue_survive_as_outlines(shared_dir, folder, least):
    names = ("mask", "anno", "label")
    files = [f for f in (shared_dir / "data" / folder).rglob("*") if any(n in str(f).lower() for n in names)]
    files = sorted(f for f in files if f.suffix in (".png", ".bmp"))
    assert len(files) > 20
    for file in files[:: len(files) // 12]:
        mask = np.asarray(Image.open(file).convert("L")) > 0
        read = np.zeros_like(mask)
        for value in write_polygons(mask):
            read |= read_polygon(wire(value), mask.shape[1], mask.shape[0])
        assert (read & mask).sum() >= least * (read | mask).sum(), file.name


@pytest.mark.parametrize("seed", range(5))
def test_filling_agrees_with_an_independent_geometry_library(seed):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.random(9)) * 2 * np.pi
    radii = rng.uniform(5, 30, 9)
    points = [(40 + r * np.cos(a), 35 + r * np.sin(a)) for a, r in zip(angles, radii, strict=True)]
    yy, xx = np.mgrid[:70, :80]
    expected = contains_xy(Polygon(points), xx + 0.5, yy + 0.5)
    assert (fill_outline(points, 80, 70) == expected).all()


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(-8, 24), st.integers(-8, 24)), min_size=3, max_size=9))
def test_any_outline_also_one_that_crosses_itself_is_filled_as_counting_crossings_says(corners):
    points = [(x + 0.25, y + 0.25) for x, y in corners]  # no corner lies on a pixel's centre
    width, height = 16, 12
    expected = np.zeros((height, width), bool)
    for row, column in np.ndindex(height, width):
        x, y = column + 0.5, row + 0.5
        for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
            if (y0 > y) != (y1 > y):
                expected[row, column] ^= x < x0 + (y - y0) * (x1 - x0) / (y1 - y0)
    filled = fill_outline(points, width, height)
    on_edge = _on_an_edge(points, width, height)
    assert (filled == expected)[~on_edge].all()


def _on_an_edge(points, width, height):
    """Pixels whose centre an edge runs through: either answer is right."""
    edges = MultiLineString([[a, b] for a, b in zip(points, [*points[1:], points[0]], strict=True) if a != b])
    yy, xx = np.mgrid[:height, :width]
    return shapely.distance(edges, shapely.points(xx + 0.5, yy + 0.5)) < 1e-9


@settings(max_examples=80)
@given(masks, st.sampled_from([write_brush, lambda m: write_bitmask(m, "#d62728")]), st.data())
def test_a_damaged_region_is_refused_or_has_the_right_size(mask, write, data):
    height, width = mask.shape
    value = wire(write(mask))
    key = "rle" if "rle" in value else "imageDataURL"
    old, at = value[key], data.draw(st.integers(0, len(value[key]) - 1))
    if key == "rle":
        value[key] = [*old[:at], *data.draw(st.lists(st.integers(-1, 256), max_size=3)), *old[at + 1 :]]
    else:
        value[key] = old[:at] + data.draw(st.text(max_size=2)) + old[at + 1 :]
    with contextlib.suppress(BadInput):
        read = (read_brush if key == "rle" else read_bitmask)(value, width, height)
        assert read.shape == mask.shape
        assert read.dtype == np.bool_


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


@pytest.mark.parametrize("turn", [148, 187])
def test_a_hole_that_touches_its_outline_at_its_leftmost_corner_stays_in_the_picture(turn: int) -> None:
    rng = np.random.default_rng(1)
    for _ in range(turn + 1):
        field = ndimage.gaussian_filter(rng.standard_normal((256, 256)), rng.uniform(3, 8))
        mask = field > np.quantile(field, rng.uniform(0.2, 0.7))
    points = np.array([point for value in write_polygons(mask) for point in value["points"]])
    assert points.min() >= 0
    assert points.max() <= 100
