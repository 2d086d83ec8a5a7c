from __future__ import annotations

import numpy as np
import pytest

from backend.labelstudio.config import labelling_config, read_config
from backend.labelstudio.controls import Controls
from backend.labelstudio.results import ReviewBox, class_map_to_result
from backend.labelstudio.sources import group_of, picture_path, source_of
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput

CLASSES = ClassSet.from_names(["background", "gland"])
RESULT = class_map_to_result(
    np.eye(16, dtype=np.uint8), CLASSES, review_boxes=[ReviewBox(Box(1, 1, 4, 4))], scope="only the boxes"
)
SERVER = "http://127.0.0.1:8080"


def test_our_own_configuration_changes_no_word_of_a_result() -> None:
    controls = Controls.of(read_config(labelling_config(CLASSES)))
    assert controls == Controls() == Controls.from_json(None)
    assert controls.worded(RESULT) == RESULT
    assert controls.missing == ()


def test_a_result_takes_the_projects_names_and_loses_what_it_has_no_control_for() -> None:
    xml = (
        '<View><Image name="photo" value="$pic"/><BrushLabels name="tissue" toName="photo"><Label value="gland"/>'
        '</BrushLabels><Choices name="quality" toName="photo"><Choice value="good"/></Choices></View>'
    )
    reading = read_config(xml)
    controls = Controls.of(reading)
    assert (controls.seg, controls.image, controls.image_key) == ("tissue", "photo", "pic")
    assert reading.others == ("quality",)
    assert [(i["from_name"], i["to_name"]) for i in controls.worded(RESULT)] == [("tissue", "photo")]
    assert len(controls.missing) == 3
    assert Controls.from_json(controls.to_json()) == controls


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("/data/upload/3/0a1b2c3d-a.png", "upload"),
        (f"{SERVER}/data/upload/3/0a1b2c3d-a.png", "upload"),
        ("/data/local-files/?d=tiles/a.png", "local files"),
        ("s3://bucket/a.png", "cloud storage"),
        ("https://elsewhere.example/data/upload/3/a.png", "other address"),
        ("", "none"),
        (None, "none"),
        (["/data/upload/3/a.png"], "none"),
    ],
)
def test_where_a_picture_lies_is_told_from_its_address(address: object, source: str) -> None:
    assert source_of(address, SERVER) == source


@pytest.mark.parametrize(
    ("address", "pattern", "group"),
    [
        ("/data/upload/3/0a1b2c3d-case-7_x.png", None, "case-7_x.png"),
        ("/data/upload/3/0a1b2c3d-case-7_x.png", r"case-\d+", "case-7"),
        ("/data/local-files/?d=P12/tiles/a%20b.png", r"^([^/]+)/", "P12"),
        ("/data/local-files/?d=P12/tiles/a%20b.png", None, "a b.png"),
        ("/data/upload/3/0a1b2c3d-other.png", r"case-\d+", "other.png"),
    ],
)
def test_a_group_is_what_the_pattern_finds_else_the_file_name(address: str, pattern: str | None, group: str) -> None:
    assert group_of(address, pattern) == group


def test_the_mark_of_an_upload_is_no_part_of_its_name() -> None:
    assert picture_path("/data/upload/3/0a1b2c3d-a.png") == "a.png"


def test_a_pattern_that_is_none_is_one_line() -> None:
    with pytest.raises(BadInput, match="group pattern"):
        group_of("/data/upload/3/a.png", "(")
