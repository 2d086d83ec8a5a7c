from __future__ import annotations

import numpy as np
import pytest

from backend.labelstudio.results import ReviewBox, class_map_to_result
from backend.labelstudio.validation import validate_result
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput

CLASSES = ClassSet.from_names(["background", "Tumour", "Stroma"])


def result(label_type="brush") -> list[dict]:
    class_map = np.zeros((20, 24), np.uint8)
    class_map[2:12, 3:15] = 1
    box = ReviewBox(Box(14, 10, 10, 10), 0.4, "why")
    return class_map_to_result(
        class_map, CLASSES, review_boxes=[box], scope="only the boxes", region_scores={1: 1.0}, label_type=label_type
    )


@pytest.mark.parametrize("label_type", ["brush", "bitmask", "polygon"])
def test_what_we_write_is_sound(label_type):
    validate_result(result(label_type), CLASSES, 24, 20)


def test_an_empty_result_is_sound():
    validate_result([], CLASSES, 24, 20)


@pytest.mark.parametrize(
    ("item", "path", "value", "field"),
    [
        (0, "id", None, "result[0].id"),
        (0, "id", "", "result[0].id"),
        (1, "id", "seg-1", "result[1].id"),
        (0, "from_name", "zzz", "result[0].type"),
        (0, "to_name", "picture", "result[0].to_name"),
        (0, "type", "BrushLabels", "result[0].type"),
        (0, "score", 7, "result[0].score"),
        (0, "score", float("nan"), "result[0].score"),
        (0, "original_width", None, "result[0].original_width"),
        (0, "original_height", 21, "result[0].original_height"),
        (0, "image_rotation", 90, "result[0].image_rotation"),
        (0, "value", None, "result[0].value"),
        (0, "value.brushlabels", ["Necrosis"], "result[0].value.brushlabels"),
        (0, "value.brushlabels", None, "result[0].value.brushlabels"),
        (0, "value.rle", [1, 2, 3], "result[0].rle"),
        (0, "value.rle", "AAAA", "result[0].value.rle"),
        (0, "value.rle", None, "result[0].value.rle"),
        (1, "value.rectanglelabels", ["Reviewed"], "result[1].value.rectanglelabels"),
        (1, "value.x", 120, "result[1].value.x"),
        (1, "value.x", -1, "result[1].value.x"),
        (1, "value.x", 95, "result[1].value.width"),
        (1, "value.height", 0, "result[1].value.height"),
        (1, "value.y", "3", "result[1].value.y"),
        (2, "value.choices", ["whole"], "result[2].value.choices"),
    ],
)
def test_what_the_server_would_swallow_is_refused_and_the_field_named(item, path, value, field):
    broken = result()
    target, *keys = [broken[item], *path.split(".")]
    for key in keys[:-1]:
        target = target[key]
    target[keys[-1]] = value
    with pytest.raises(BadInput) as caught:
        validate_result(broken, CLASSES, 24, 20)
    assert caught.value.item == field


def test_points_outside_the_picture_are_refused():
    broken = result("polygon")
    broken[0]["value"]["points"][0] = [101, 5]
    with pytest.raises(BadInput, match="points"):
        validate_result(broken, CLASSES, 24, 20)


@pytest.mark.parametrize("wrong", ["[]", None, {"a": 1}, [3]])
def test_what_is_no_list_of_items_is_refused(wrong):
    with pytest.raises(BadInput):
        validate_result(wrong, CLASSES, 24, 20)
