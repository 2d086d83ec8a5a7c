"""What the editor does with what we write: seen in headless Chromium at a real Label Studio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.config import labelling_config
from backend.labelstudio.results import ReviewBox, class_map_to_result, result_to_mask
from mpamatch.domain.classes import IGNORE, ClassSet
from mpamatch.domain.tiling import Box
from tests import label_studio_person as person
from tests.flows.browser import LabelStreamBrowser, find_chromium

pytestmark = [pytest.mark.labelstudio, pytest.mark.browser, pytest.mark.timeout(600)]

CLASSES = ClassSet.from_names(["background", "Tumour", "Stroma"])
WIDTH, HEIGHT = 320, 256
BOX = Box(100, 70, 100, 90)


def class_map() -> np.ndarray:
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    found = ((yy - 120) ** 2 + (xx - 150) ** 2 < 60**2).astype(np.uint8)
    found[200:230, 20:80] = 2
    return found


def suggestion() -> list[dict[str, Any]]:
    box = ReviewBox(BOX, 0.41, "confidence 0.41 below 0.95 over 312 px")
    return class_map_to_result(class_map(), CLASSES, review_boxes=[box], scope="only the boxes", region_scores={1: 0.7})


@pytest.fixture(scope="module")
def client(real_label_studio) -> Iterator[LabelStudioClient]:
    with LabelStudioClient(real_label_studio.url, real_label_studio.token) as made:
        yield made


@pytest.fixture
def browser(real_label_studio, tmp_path) -> Iterator[LabelStreamBrowser]:
    if find_chromium() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    server = real_label_studio
    with LabelStreamBrowser(server.url, server.email, server.password) as opened:
        opened.login()
        yield opened


def make_project(
    client: LabelStudioClient, server: Any, title: str, shown: list[list[dict[str, Any]]]
) -> tuple[int, list[int]]:
    """One task per shown result, served in that order."""
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 225, np.uint8)).save(server.pictures / "blank.png")
    made = client.create_project(
        title, labelling_config(CLASSES), sampling="Uncertainty sampling", maximum_annotations=1
    )
    project_id = int(made["id"])
    folder = {"project": project_id, "path": str(server.pictures), "use_blob_urls": True}
    client._call("POST", "/api/storages/localfiles", json=folder)
    tasks = [
        {
            "data": {"image": "/data/local-files/?d=tiles/blank.png", "why": f"confidence 0.41 below 0.95; {n}"},
            "predictions": [{"result": result, "score": (n + 1) / (len(shown) + 1), "model_version": "m1"}],
        }
        for n, result in enumerate(shown)
    ]
    return project_id, client.import_tasks(project_id, tasks)


def reading(annotation: dict[str, Any], shown: list[dict[str, Any]] | None):
    return result_to_mask(annotation["result"], width=WIDTH, height=HEIGHT, classes=CLASSES, shown=shown)


def test_an_annotator_works_through_the_stream(client, real_label_studio, browser):
    project_id, ids = make_project(client, real_label_studio, "stream", [suggestion()] * 3 + [[]])
    browser.open_label_stream(project_id)
    assert browser.current_task_id() == ids[0]
    assert browser.page.get_by_text("confidence 0.41 below 0.95; 0").is_visible()
    assert browser.chosen() == ["only the boxes"]

    untouched = browser.submit()
    found = reading(untouched, suggestion())
    assert found.origin == "confirmed"
    assert found.scope == "only the boxes"
    assert (found.mask != IGNORE).sum() == BOX.area_px
    assert [i.get("readonly") for i in untouched["result"] if i["from_name"] == "review"] == [True]
    assert person.annotation(client, untouched["id"])["result"] == untouched["result"]

    assert browser.current_task_id() == ids[1]
    browser.draw_brush_stroke("Stroma", [(0.7, 0.2), (0.85, 0.2), (0.85, 0.4)])
    found = reading(browser.submit(), suggestion())
    drawn = (found.mask == 2) & (class_map() != 2)
    ys, xs = np.nonzero(drawn)
    assert found.origin == "annotated"
    assert (found.mask == IGNORE).any()
    assert (xs.min() / WIDTH, xs.max() / WIDTH) == pytest.approx((0.7, 0.85), abs=0.03)
    assert (ys.min() / HEIGHT, ys.max() / HEIGHT) == pytest.approx((0.2, 0.4), abs=0.03)

    assert browser.current_task_id() == ids[2]
    browser.choose("cannot tell")
    found = reading(browser.submit(), suggestion())
    assert found.abstained
    assert found.reviewed_share == 0

    assert browser.current_task_id() == ids[3]
    skipped = browser.skip()
    assert skipped["was_cancelled"] is True
    assert browser.current_task_id() == 0
    assert browser.errors == []


def test_a_blind_tile_shows_nothing_and_is_read_whole(client, real_label_studio, browser, tmp_path):
    project_id, ids = make_project(client, real_label_studio, "blind", [[]])
    browser.open_label_stream(project_id)
    assert browser.current_task_id() == ids[0]
    assert browser.current_task()["predictions"][0]["result"] == []
    assert browser.screenshot(tmp_path / "blind.png").stat().st_size > 10_000
    browser.draw_brush_stroke("Tumour", [(0.3, 0.3), (0.5, 0.5)])
    found = reading(browser.submit(), [])
    assert found.scope == "whole tile"
    assert found.reviewed_share == 1
    assert (found.mask == 1).sum() > 100
    assert found.origin == "annotated"


def test_a_page_that_was_open_during_a_roll_out_can_submit_only_while_its_prediction_exists(
    client, real_label_studio, browser
):
    project_id, ids = make_project(client, real_label_studio, "open page", [suggestion()] * 2)
    browser.open_label_stream(project_id)
    fresh = [{"task": i, "result": [], "score": (n + 1) / 3, "model_version": "m2"} for n, i in enumerate(ids)]
    client.import_predictions(project_id, fresh)
    client.set_model_version(project_id, "m2")
    first = browser.submit()
    assert client.prediction(first["parent_prediction"])["model_version"] == "m1"
    assert browser.current_task()["predictions"][0]["model_version"] == "m2"
    person.delete_predictions_of_tasks(client, project_id, ids[1:])
    with pytest.raises(AssertionError, match="parent_prediction"):
        browser.submit()
