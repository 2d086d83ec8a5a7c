import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mpamatch.domain.classes import ClassSet
from mpamatch.domain.coco import CocoTile, to_coco
from mpamatch.domain.geojson import TileMask, from_geojson, to_geojson
from mpamatch.domain.outlines import TileFrame
from mpamatch.domain.tiling import Box
from tests.coco_runs import decode_runs

CLASSES = ClassSet.from_names(["background", "gland", "stroma"])
MASKS = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.sampled_from([0, 1, 2, 255])
)
PLACES = st.tuples(st.integers(0, 300), st.integers(0, 300), st.floats(1, 5))


@settings(deadline=None, max_examples=150)
@given(MASKS, PLACES)
def test_every_mask_comes_back_from_geojson_at_any_scale(mask: np.ndarray, place: tuple[int, int, float]) -> None:
    x, y, scale = place
    size = (mask.shape[1], mask.shape[0])
    frame = TileFrame(Box(x, y, round(size[0] * scale), round(size[1] * scale)), size)
    text = json.dumps(to_geojson("a", "00", (400, 400), [TileMask(frame, mask)], CLASSES))
    if (mask == 255).all():
        assert json.loads(text)["features"] == []
        return
    placed = from_geojson(json.loads(text), "a", (400, 400), [frame], CLASSES)
    assert placed.cut == 0
    assert placed.masks[0] is not None
    assert np.array_equal(placed.masks[0], mask)


@settings(deadline=None, max_examples=150)
@given(MASKS)
def test_every_mask_comes_back_from_coco(mask: np.ndarray) -> None:
    values = to_coco([CocoTile(7, "a.png", "a", Box(0, 0, 9, 9), None, mask)], CLASSES, description="")
    found = np.zeros_like(mask)
    for one in json.loads(json.dumps(values))["annotations"]:
        where = decode_runs(one["segmentation"]["counts"], *one["segmentation"]["size"])
        assert not found[where].any()
        found[where] = one["category_id"]
    assert np.array_equal(found, mask)


def test_the_same_outlines_have_the_same_ids_and_changed_ones_others() -> None:
    frame = TileFrame(Box(0, 0, 8, 8), (8, 8))
    mask = np.zeros((8, 8), np.uint8)
    mask[1:3, 1:3] = 1
    more = mask.copy()
    more[5:7, 5:7] = 1

    def ids(given: np.ndarray) -> list[str]:
        return [f["id"] for f in to_geojson("a", "00", (8, 8), [TileMask(frame, given)], CLASSES)["features"]]

    assert ids(mask) == ids(mask)
    assert set(ids(mask)) < set(ids(more))
