"""The order as CSV and GeoJSON, read back by other programs' rules."""

from __future__ import annotations

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely.geometry import shape

from mpamatch.domain.queue_export import COLUMNS, QueuedRegion, QueuedTile, csv_lines, features
from mpamatch.domain.tiling import Box

RINGS = (
    ((2.0, 4.0), (12.0, 4.0), (12.0, 14.0), (2.0, 14.0), (2.0, 4.0)),
    ((4.0, 6.0), (6.0, 6.0), (6.0, 8.0), (4.0, 6.0)),
)


def region(number: int = 5, **values) -> QueuedRegion:
    given = {
        "box": Box(0, 1, 48, 24),
        "rings": RINGS,
        "area_px": 98,
        "predicted_class": "gland",
        "mean_confidence": 0.41,
    } | values
    return QueuedRegion(number, uncertainty=0.5, margin=0.2, impurity=0.3, disagreement=0.0, **given)


def entry(*regions: QueuedRegion, **values) -> QueuedTile:
    given = {
        "rank": 3,
        "tile_id": 17,
        "image": "slide",
        "image_sha256": "ab" * 32,
        "group": "case-1",
        "split": "train",
        "stratum": "score",
        "state": "open",
        "score": 0.7,
        "noise": -0.25,
        "propensity": 1.0,
        "round": 2,
        "reasons": ("confidence 0.41 below 0.95", "classes nearly tied"),
        "box": Box(1000, 2000, 200, 100),
        "size_px": (100, 100),  # twice as wide at level 0 as in the picture, and as high
    }
    return QueuedTile(regions=regions, **(given | values))


def read(tiles: list[QueuedTile]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(csv_lines(tiles), newline="")))


def test_each_region_is_a_line_with_its_review_box_in_level_0_pixels() -> None:
    first, second = read([entry(region(5), region(6))])
    assert (first["rank"], first["region"], second["region"]) == ("3", "1", "2")
    assert [first[k] for k in ("x_px", "y_px", "width_px", "height_px")] == ["1000", "2001", "96", "24"]
    assert [first[k] for k in ("tile_x_px", "tile_y_px", "tile_width_px", "tile_height_px")] == [
        "1000",
        "2000",
        "200",
        "100",
    ]
    assert float(first["area_px"]) == 98 * 2
    assert (float(first["noise"]), float(first["mean_confidence"])) == (-0.25, 0.41)
    assert first["reasons"] == "confidence 0.41 below 0.95; classes nearly tied"


def test_a_tile_without_regions_is_one_line() -> None:
    (line,) = read([entry(stratum="audit")])
    assert (line["region"], line["area_px"], line["stratum"]) == ("", "", "audit")
    assert set(line) == set(COLUMNS)


@pytest.mark.parametrize(
    "text",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "\uff1dcmd", '=HYPERLINK("http://x")', "'=1"],
)
def test_no_text_is_a_formula(text: str) -> None:
    (line,) = read([entry(region(predicted_class=text), image=text, group=text, reasons=(text,))])
    for name in ("image", "group", "predicted_class", "reasons"):
        assert line[name].startswith("'")
        assert line[name].endswith(text)


@given(st.text(max_size=20), st.text(max_size=20))
def test_whatever_a_file_is_called_the_table_stays_a_table(image: str, group: str) -> None:
    lines = read([entry(region(), image=image, group=group), entry()])
    assert len(lines) == 2
    for name, text in (("image", image), ("group", group)):
        assert lines[0][name].removeprefix("'") == text.removeprefix("'")
        assert not lines[0][name].lstrip().startswith(("=", "+", "-", "@"))


def test_a_feature_has_the_regions_area_and_place_with_its_hole() -> None:
    (feature,) = json.loads(json.dumps(features(entry(region()))))
    polygon = shape(feature["geometry"])
    assert polygon.bounds == (1004, 2004, 1024, 2014)
    assert polygon.area == pytest.approx((100 - 2) * 2)  # the outer ring without the triangle, twice as wide
    assert len(polygon.interiors) == 1
    properties = feature["properties"]
    assert (properties["objectType"], properties["name"]) == ("annotation", "queue 3.1")
    assert properties["measurements"]["mean_confidence"] == 0.41
    assert properties["measurements"]["rank"] == 3
    assert properties["metadata"]["tile"] == "17"
    assert properties["metadata"]["reasons"].startswith("confidence")
    assert all(isinstance(v, str) for v in properties["metadata"].values())


def test_a_tile_that_is_asked_for_whole_is_its_own_outline() -> None:
    (feature,) = features(entry())
    assert shape(feature["geometry"]).bounds == (1000, 2000, 1200, 2100)


def test_unchanged_work_keeps_its_ids() -> None:
    first, again = features(entry(region())), features(entry(region(number=900), rank=8))
    assert [f["id"] for f in first] == [f["id"] for f in again]
    assert len({f["id"] for f in features(entry(region(), region(rings=RINGS[:1])))}) == 2
