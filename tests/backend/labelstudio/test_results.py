from __future__ import annotations

import contextlib
import copy
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from backend.labelstudio.results import (
    ReviewBox,
    class_map_to_result,
    paint,
    result_to_mask,
    scope_item,
    validate_result,
)
from mpamatch.domain.classes import IGNORE, ClassSet
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput

CLASSES = ClassSet.from_names(["background", "Tumour", "Stroma"])
class_maps = arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 2))
BOX = ReviewBox(Box(4, 4, 8, 6), 0.41, "confidence 0.41 below 0.95 over 48 px")


def tissue() -> np.ndarray:
    class_map = np.zeros((20, 24), np.uint8)
    class_map[2:12, 3:15] = 1
    class_map[8:18, 10:22] = 2
    return class_map


def read(result, shown=None, *, width=24, height=20, **more):
    return result_to_mask(
        json.loads(json.dumps(result)), width=width, height=height, classes=CLASSES, shown=shown, **more
    )


def drawn(mask: np.ndarray, label: str) -> dict:
    """A region that a person drew."""
    number = CLASSES.id_of(label)
    item = class_map_to_result((mask * np.uint8(max(number, 1))).astype(np.uint8), CLASSES)[0]
    item["value"]["brushlabels"] = [label]
    return item | {"id": f"drawn-{label}", "origin": "manual"}


# Writing


@pytest.mark.parametrize("label_type", ["brush", "bitmask", "polygon"])
@settings(max_examples=100, deadline=None)
@given(class_map=class_maps)
def test_a_class_map_survives_as_every_label_type(label_type, class_map):
    height, width = class_map.shape
    result = class_map_to_result(class_map, CLASSES, label_type=label_type)
    validate_result(json.loads(json.dumps(result)), CLASSES, width, height)
    painted = paint(result, width=width, height=height, classes=CLASSES)
    if label_type == "polygon":  # outlines are drawn with fewer corners: only pixels at a border may differ
        border = ndimage.grey_dilation(class_map, size=3) != ndimage.grey_erosion(class_map, size=3)
        painted = np.where(border, class_map, painted)
    assert (painted == class_map).all()


def test_there_is_one_region_per_class_that_is_present_then_boxes_then_the_scope():
    result = class_map_to_result(
        tissue(), CLASSES, review_boxes=[BOX, BOX], scope="only the boxes", region_scores={1: 0.75}
    )
    assert [i["type"] for i in result] == [
        "brushlabels",
        "brushlabels",
        "rectanglelabels",
        "rectanglelabels",
        "choices",
    ]
    assert [i.get("score") for i in result] == [0.75, None, 0.41, 0.41, None]
    assert len({i["id"] for i in result}) == len(result)
    assert all(i["origin"] == "prediction" for i in result)
    assert result[2]["readonly"] is True
    assert result[2]["meta"] == {"text": [BOX.text]}
    assert result[4]["value"] == {"choices": ["only the boxes"]}


def test_ignored_pixels_and_background_are_not_painted():
    class_map = tissue()
    class_map[class_map == 2] = IGNORE
    assert [i["value"]["brushlabels"] for i in class_map_to_result(class_map, CLASSES)] == [["Tumour"]]
    assert class_map_to_result(np.zeros((5, 5), np.uint8), CLASSES) == []


def test_the_same_prediction_gives_the_same_json():
    assert class_map_to_result(tissue(), CLASSES) == class_map_to_result(tissue(), CLASSES)


@pytest.mark.parametrize("class_map", [np.full((3, 3), 3, np.uint8), np.zeros((3, 3)), np.zeros(3, np.uint8)])
def test_what_is_no_class_map_is_refused(class_map):
    with pytest.raises(BadInput):
        class_map_to_result(class_map, CLASSES)


def test_an_unknown_scope_is_refused():
    with pytest.raises(BadInput, match="only the boxes"):
        scope_item("half of it")


# Reading: scopes


def test_a_result_without_scope_is_the_whole_tile():
    reading = read(class_map_to_result(tissue(), CLASSES))
    assert (reading.mask == tissue()).all()
    assert reading.scope == "whole tile"
    assert reading.reviewed_share == 1.0


def test_an_empty_result_is_all_background():
    reading = read([])
    assert (reading.mask == 0).all()
    assert reading.origin == "annotated"


def test_only_the_boxes_supervises_inside_them_and_nothing_else():
    shown = class_map_to_result(tissue(), CLASSES, review_boxes=[BOX], scope="only the boxes")
    reading = read(shown, shown)
    inside = np.zeros((20, 24), bool)
    inside[4:10, 4:12] = True
    assert (reading.mask[inside] == tissue()[inside]).all()
    assert (reading.mask[~inside] == IGNORE).all()
    assert reading.reviewed_share == pytest.approx(48 / 480)
    assert reading.origin == "confirmed"


def test_only_the_boxes_also_supervises_what_was_painted_or_erased_outside():
    shown = class_map_to_result(tissue(), CLASSES, review_boxes=[BOX], scope="only the boxes")
    painted = np.zeros((20, 24), bool)
    painted[0:2, 20:24] = True
    erased = tissue()
    erased[16:18, 10:22] = 0
    result = class_map_to_result(erased, CLASSES, review_boxes=[BOX], scope="only the boxes")
    result[1]["origin"] = "prediction-changed"
    reading = read([*result, drawn(painted, "Tumour")], shown)
    assert (reading.mask[painted] == 1).all()
    assert (reading.mask[16:18, 10:22] == 0).all()
    assert reading.mask[15, 15] == IGNORE
    assert reading.origin == "annotated"


def test_the_annotator_may_add_boxes():
    own = class_map_to_result(np.zeros((20, 24), np.uint8), CLASSES, review_boxes=[ReviewBox(Box(0, 0, 2, 2))])[0]
    own |= {"id": "mine", "origin": "manual", "readonly": False}
    shown = class_map_to_result(tissue(), CLASSES, review_boxes=[BOX], scope="only the boxes")
    reading = read([*shown, own], shown)
    assert (reading.mask[:2, :2] == 0).all()
    assert (reading.mask[4:10, 4:12] != IGNORE).all()


def test_without_a_shown_prediction_only_the_boxes_takes_what_was_painted():
    reading = read([*class_map_to_result(tissue(), CLASSES), scope_item("only the boxes")], None)
    assert ((reading.mask != IGNORE) == (tissue() > 0)).all()


def test_review_boxes_never_paint():
    reading = read(class_map_to_result(np.zeros((20, 24), np.uint8), CLASSES, review_boxes=[BOX]))
    assert (reading.mask == 0).all()


@pytest.mark.parametrize(("scope", "abstained", "artefact"), [("cannot tell", True, False), ("artefact", False, True)])
def test_cannot_tell_and_artefact_supervise_nothing(scope, abstained, artefact):
    reading = read([*class_map_to_result(tissue(), CLASSES, review_boxes=[BOX]), scope_item(scope)])
    assert (reading.mask == IGNORE).all()
    assert (reading.abstained, reading.artefact) == (abstained, artefact)
    assert reading.reviewed_share == 0


# Reading: painting


def test_later_regions_lie_over_earlier_ones():
    a, b = np.zeros((20, 24), bool), np.zeros((20, 24), bool)
    a[0:10], b[5:15] = True, True
    over = read([drawn(a, "Tumour"), drawn(b, "Stroma")]).mask
    assert (over[0:5] == 1).all()
    assert (over[5:15] == 2).all()
    under = read([drawn(b, "Stroma"), drawn(a, "Tumour")]).mask
    assert (under[0:10] == 1).all()


def test_background_as_a_label_of_a_foreign_configuration_paints_background():
    hole = np.zeros((20, 24), bool)
    hole[4:6, 4:6] = True
    reading = read([*class_map_to_result(tissue(), CLASSES), drawn(hole, "background")])
    assert (reading.mask[4:6, 4:6] == 0).all()


def test_a_result_of_another_size_is_resampled_to_the_nearest():
    small = class_map_to_result(np.array([[0, 1], [2, 0]], np.uint8), CLASSES)
    mask = read(small, width=6, height=4).mask
    assert (mask == np.kron(np.array([[0, 1], [2, 0]]), np.ones((2, 3)))).all()
    large = class_map_to_result(np.kron(tissue(), np.ones((3, 3))).astype(np.uint8), CLASSES)
    assert (read(large).mask == tissue()).all()


def test_soft_edges_are_cut_in_the_middle():
    from backend.labelstudio.rle import encode_rle

    item = class_map_to_result(tissue(), CLASSES)[0]
    item["value"]["rle"] = encode_rle(np.array([[0, 127, 128, 255]], np.uint8))
    item |= {"original_width": 4, "original_height": 1}
    assert read([item], width=4, height=1).mask.tolist() == [[0, 0, 1, 1]]


# Reading: what was shown


def test_confirmed_needs_an_equal_map_and_untouched_regions():
    shown = class_map_to_result(tissue(), CLASSES)
    assert read(shown, shown).origin == "confirmed"
    redrawn = copy.deepcopy(shown)
    redrawn[0]["origin"] = "prediction-changed"
    assert read(redrawn, shown).origin == "annotated"
    assert read(shown[:1], shown).origin == "annotated"
    assert read([{**i, "origin": "manual"} for i in shown], shown).origin == "annotated"


def test_nothing_shown_can_be_confirmed():
    assert read([], []).origin == "annotated"
    assert read([], None).origin == "annotated"


def test_a_shown_background_that_came_back_is_confirmed():
    shown = class_map_to_result(np.zeros((20, 24), np.uint8), CLASSES, review_boxes=[BOX])
    assert read(shown, shown).origin == "confirmed"


def test_the_shown_prediction_may_be_given_as_its_class_map():
    shown = class_map_to_result(tissue(), CLASSES, review_boxes=[BOX], scope="only the boxes")
    assert read(shown, shown_class_map=tissue()).origin == "confirmed"
    assert (read(shown, shown_class_map=tissue()).mask == read(shown, shown).mask).all()
    with pytest.raises(BadInput, match="shown class map"):
        read(shown, shown_class_map=tissue()[:5])


# Reading: recordings


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["brush", "bitmask", "polygon"])
def test_recorded_submissions_read_as_what_was_done_in_the_browser(recorded, kind):
    data = recorded(f"ui-annotation-{kind}")
    shown = data["webhook_1"]["body"]["annotation"]["prediction"]["result"]
    before = paint(shown, width=64, height=64, classes=CLASSES)
    readings = [read(r["body"]["result"], shown, width=64, height=64) for r in data["browser_requests"]]
    untouched, with_stroke, edited = readings[:3]
    assert untouched.origin == "confirmed"
    assert (untouched.mask == before).all()
    assert with_stroke.origin == "annotated"
    assert ((with_stroke.mask == 1) == (before == 1)).all()
    assert (with_stroke.mask == 2).any()
    if kind != "polygon":  # the recording of polygons holds no edited one
        assert edited.origin == "annotated"
        assert (edited.mask == 1).sum() > (before == 1).sum()
        assert (edited.mask[before == 1] == 1).all()
    assert all(r.scope == "whole tile" and r.reviewed_share == 1 for r in readings)


@pytest.mark.shared
def test_the_webhook_of_a_submission_reads_like_the_request(recorded):
    data = recorded("ui-annotation-brush")
    annotation = data["webhook_1"]["body"]["annotation"]
    one = read(annotation["result"], annotation["prediction"]["result"], width=64, height=64)
    two = read(data["browser_requests"][0]["body"]["result"], annotation["prediction"]["result"], width=64, height=64)
    assert (one.mask == two.mask).all()
    assert one.origin == two.origin == "confirmed"


@pytest.mark.shared
def test_the_cut_run_lengths_of_the_recorded_skip_are_refused_not_guessed(recorded):
    skip = recorded("ui-draft-and-skip")[1]["body"]
    assert skip["was_cancelled"] is True
    with pytest.raises(BadInput, match=r"result\[0\]"):
        read(skip["result"], width=1024, height=1024)


# Reading: what cannot be read


def broken(**changes) -> list[dict]:
    result = class_map_to_result(tissue(), CLASSES)
    for path, value in changes.items():
        target, *keys = [result[0], *path.split("__")]
        for key in keys[:-1]:
            target = target[key]
        target[keys[-1]] = value
    return result


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"value__brushlabels": ["Necrosis"]}, "Necrosis"),
        ({"value__brushlabels": []}, "brushlabels"),
        ({"value__brushlabels": ["Tumour", "Stroma"]}, "exactly one class"),
        ({"value__brushlabels": "Tumour"}, "brushlabels"),
        ({"value__brushlabels": [["Tumour"]]}, "brushlabels"),
        ({"value__rle": [1, 2, 3]}, "rle"),
        ({"value__rle": None}, "rle"),
        ({"original_width": 25}, "values"),
        ({"original_width": "24"}, "original_width"),
        ({"original_width": 10**9}, "original_width"),
        ({"original_height": 0}, "original_width"),
        ({"image_rotation": 90}, "image_rotation"),
        ({"value": 3}, "no region"),
        ({"type": "ellipselabels"}, "ellipselabels"),
        ({"type": "brush"}, "cannot be read"),
    ],
)
def test_a_region_that_cannot_be_read_is_an_error_that_names_it(changes, named):
    with pytest.raises(BadInput, match=r"result\[0\]") as caught:
        read(broken(**changes))
    assert named in str(caught.value)


def test_a_rectangle_of_another_control_is_not_swallowed():
    item = class_map_to_result(np.zeros((20, 24), np.uint8), CLASSES, review_boxes=[BOX])[0]
    item |= {"from_name": "tumour-box"}
    item["value"]["rectanglelabels"] = ["Tumour"]
    with pytest.raises(BadInput, match="rectangle"):
        read([item])


@pytest.mark.parametrize("choices", [["half"], [], ["whole tile", "artefact"], None])
def test_an_unknown_scope_in_a_result_is_an_error(choices):
    with pytest.raises(BadInput, match="choices"):
        read([scope_item("artefact") | {"value": {"choices": choices}}])


def test_other_controls_of_a_foreign_configuration_do_not_matter():
    other = {"id": "x", "from_name": "comment", "to_name": "image", "type": "textarea", "value": {"text": ["hm"]}}
    grade = {"id": "y", "from_name": "grade", "to_name": "image", "type": "choices", "value": {"choices": ["3"]}}
    assert (read([other, grade, *class_map_to_result(tissue(), CLASSES)]).mask == tissue()).all()


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["type", "value", "rle", "points", "brushlabels", "original_width", "from_name", "x"]),
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    ).filter(lambda v: isinstance(v, list))
)
def test_garbage_is_read_or_refused_but_never_breaks(result):
    with contextlib.suppress(BadInput):
        result_to_mask(result, width=5, height=4, classes=CLASSES, shown=None)
