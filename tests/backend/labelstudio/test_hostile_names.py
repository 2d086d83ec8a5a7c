"""Names and reasons of ours in Label Studio's own page, in Chromium: they stay text.

Against CVE-2025-25296, CVE-2025-47783, CVE-2023-47115 and CVE-2026-22033 (script in a label, a file name, a title).
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.config import labelling_config
from backend.labelstudio.results import ReviewBox, class_map_to_result
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.tiling import Box
from tests.builders import disc
from tests.flows.browser import LabelStreamBrowser, find_chromium
from tests.label_studio_server import RealLabelStudio

pytestmark = [pytest.mark.labelstudio, pytest.mark.browser, pytest.mark.timeout(600)]
SCRIPT = "<script>window.hit=1</script>"
PICTURE = '<img src=x onerror="window.hit=1">'
SVG = "'\"><svg onload=window.hit=1>"


def test_a_script_in_a_label_a_reason_or_a_title_is_shown_and_not_run(real_label_studio: RealLabelStudio) -> None:
    if find_chromium() is None:
        pytest.skip("no Chromium: apt-get install chromium")
    server = real_label_studio
    classes = ClassSet.from_names(["background", f"gland {PICTURE}"])
    Image.fromarray(np.full((64, 64, 3), 225, np.uint8)).save(server.pictures / "x.png")
    box = ReviewBox(Box(10, 10, 20, 20), 0.4, f"confidence 0.40 {PICTURE}")
    shown = class_map_to_result(disc(), classes, review_boxes=[box], scope="only the boxes")
    why = f"unsure at {PICTURE} {SCRIPT} {SVG} {{{{constructor.constructor('window.hit=1')()}}}} ${{window.hit=1}}"
    with LabelStudioClient(server.url, server.token) as client:
        project = int(client.create_project(f"t {SCRIPT[:30]}", labelling_config(classes))["id"])
        folder = {"project": project, "path": str(server.pictures), "use_blob_urls": True}
        client._call("POST", "/api/storages/localfiles", json=folder)
        task = {
            "data": {"image": "/data/local-files/?d=tiles/x.png", "why": why},
            "predictions": [{"result": shown, "score": 0.5, "model_version": "m1"}],
        }
        client.import_tasks(project, [task])
    with LabelStreamBrowser(server.url, server.email, server.password) as browser:
        browser.login()
        browser.open_label_stream(project)
        assert browser.page.get_by_text("unsure at <img src=x").first.is_visible()
        assert browser.page.evaluate("window.hit") is None
        assert browser.page.locator("img[src='x']").count() == 0
        browser.submit()
        assert browser.page.evaluate("window.hit") is None
        browser.page.goto(f"{server.url}/projects/{project}/data")
        browser.page.get_by_text("unsure at <img src=x").first.wait_for()
        assert browser.page.evaluate("window.hit") is None
