"""Brush, bitmask and polygon projects through the browser: seen, accepted, drawn over, changed, and kept as drawn.

What the product stored is held against readings of the editor's answer that share no code with it: the official SDK for
run lengths, Pillow for PNG and outlines; and against the places where the mouse was. Brush and bitmask must agree in
every pixel (alpha of 128 and more). Polygons may differ only in pixels whose centre lies within 1/8 px of an outline,
and over a whole tile the IoU of every class must be at least 0.99.
"""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image, ImageDraw
from scipy import ndimage
from sqlalchemy import select

from backend.store.tables import Annotation, Mask
from mpamatch.files.rasters import decode_raster
from tests.flows.browser import LabelStreamBrowser
from tests.flows.conftest import CLASSES, SIDE
from tests.flows.drawn_predictions import StoredTile, store_predictions
from tests.flows.stack import Stack

pytestmark = [
    pytest.mark.processes,
    pytest.mark.labelstudio,
    pytest.mark.browser,
    pytest.mark.torch,
    pytest.mark.timeout(600),
]
NAMES = CLASSES.split(",")
KINDS = ("brush", "bitmask", "polygon")
SDK_PYTHON = Path(__file__).resolve().parents[2] / ".venv-label-studio" / "bin" / "python"
SDK_READS = """
import json, sys
import numpy as np
from label_studio_sdk.converter.brush import decode_rle
lists = json.load(sys.stdin)
print(json.dumps([np.packbits(np.reshape(decode_rle(one), (-1, 4))[:, 3] >= 128).tolist() for one in lists]))
"""


@dataclass(frozen=True)
class LabelProject:
    """A project of one label type, with what its model says of every tile."""

    kind: str
    key: str
    ls_project_id: int
    tiles: dict[int, StoredTile]


@pytest.fixture(scope="module")
def stack(drawn_stack: Stack) -> Stack:
    return drawn_stack


@pytest.fixture(scope="module")
def drawn(stack: Stack) -> Path:
    return Path(stack.options[1])


@pytest.fixture(scope="module")
def made(stack: Stack, drawn: Path) -> dict[str, LabelProject]:
    """One project of each type: that of `up`, and two of `register`."""
    for kind in ("brush", "polygon"):
        stack.cli("register", str(drawn), "--project", f"{kind} tissue", "--classes", CLASSES, "--label-type", kind)
    rows = {row["label_type"]: row for row in stack.cli("projects", "list")}
    found = {}
    for kind in KINDS:
        key = rows[kind]["project"]
        tiles = store_predictions(stack, key, drawn)
        found[kind] = LabelProject(kind, key, int(rows[kind]["link"].split("/")[-2]), tiles)
    return found


@pytest.fixture(params=KINDS)
def project(request: pytest.FixtureRequest, stack: Stack, made: dict[str, LabelProject]) -> LabelProject:
    one = made[request.param]

    def shown() -> bool:
        listed = list(stack.client.tasks(one.ls_project_id))
        return bool(listed) and all(t["predictions"] and t["predictions"][0]["result"] for t in listed)

    stack.wait("the predictions", shown, 60)
    return one


def test_what_is_shown_drawn_and_changed_is_what_is_kept(stack: Stack, project: LabelProject, tmp_path: Path) -> None:
    studio = stack.status["label_studio"]
    with LabelStreamBrowser(studio["url"], studio["login"], studio["password"]) as browser:
        browser.page.set_viewport_size({"width": 1300, "height": 1400})  # the whole picture on screen
        browser.login()
        browser.open_label_stream(project.ls_project_id)
        browser.screenshot(_kept_picture(tmp_path, f"{project.kind}-shown.png"))
        _check_seen(browser, project)
        _accept(stack, browser, project)
        _draw(stack, browser, project, _kept_picture(tmp_path, f"{project.kind}-drawn.png"))
        _change(stack, browser, project, _kept_picture(tmp_path, f"{project.kind}-changed.png"))
        assert browser.errors == []


def _kept_picture(folder: Path, name: str) -> Path:
    """Where screenshots go: a folder that outlives the test when one is named."""
    return Path(os.environ.get("LABEL_TYPE_PICTURES", folder)) / name


def _tile(browser: LabelStreamBrowser, project: LabelProject) -> StoredTile:
    return project.tiles[browser.current_task()["data"]["tile_id"]]


def _segmentation(result: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [item for item in result if item["from_name"] == "seg"]


def _check_seen(browser: LabelStreamBrowser, project: LabelProject) -> None:
    """The page lists the regions by our label, and its pixels differ exactly where mask and boxes lie."""
    result = browser.current_task()["predictions"][0]["result"]
    assert {item["type"] for item in _segmentation(result)} == {f"{project.kind}labels"}
    listed = browser.regions()
    assert listed.count("gland") == min(len(_segmentation(result)), len(listed)) > 0
    (seen, box, frame), (bare, same_box, _) = (browser.picture(regions=shown) for shown in (True, False))
    assert same_box == box
    changed = np.abs(_pixels(seen) - _pixels(bare)).max(axis=2) > 16
    # One screen pixel per tile pixel, the one that shows its centre, where it is on screen at all.
    x, y = (box[at] + (np.arange(SIDE) + 0.5) * box[size] / SIDE for at, size in (("x", "width"), ("y", "height")))
    visible = _within(y, frame["y"], frame["height"])[:, None] & _within(x, frame["x"], frame["width"])
    changed = changed[y.astype(int).clip(0)[:, None], x.astype(int).clip(0)]
    compared = visible & ~ndimage.binary_dilation(_boxes(result), iterations=2)
    expected = _tile(browser, project).predicted == 1
    assert visible.mean() > 0.85
    assert (expected & compared).sum() > 500
    seen_share = _iou(changed & compared, expected & compared)
    assert seen_share > 0.95


def _within(places: np.ndarray, start: float, length: float) -> np.ndarray:
    """Two pixels away from the frame's own edge."""
    return (places > start + 2) & (places < start + length - 2)


def _accept(stack: Stack, browser: LabelStreamBrowser, project: LabelProject) -> None:
    """Submitted untouched, for the whole tile: what the model said, confirmed."""
    tile = _tile(browser, project)
    browser.choose("whole tile")
    answer = browser.submit()
    mask, kept = _stored(stack, answer)
    assert mask.origin == "confirmed"
    assert mask.reviewed_share == 1.0
    _check_same(kept, _referee(answer["result"]), _undecided(answer["result"]))
    assert _iou(kept == 1, tile.predicted == 1) >= (0.98 if project.kind == "polygon" else 1.0)


def _draw(stack: Stack, browser: LabelStreamBrowser, project: LabelProject, picture: Path) -> None:
    """Another class is drawn over the prediction: its pixels are those under the mouse, and lie on top."""
    tile = _tile(browser, project)
    corners = [(0.30, 0.25), (0.70, 0.30), (0.60, 0.65)]
    if project.kind == "polygon":
        corners = _free_corners(tile.predicted | _boxes(browser.current_task()["predictions"][0]["result"]))
        browser.draw_polygon("stroma", corners)
    else:
        browser.draw_brush_stroke("stroma", corners)
    browser.screenshot(picture)
    browser.choose("whole tile")
    answer = browser.submit()
    manual = [item for item in _segmentation(answer["result"]) if item["origin"] == "manual"]
    assert [item["value"][item["type"]] for item in manual] == [["stroma"]]
    mask, kept = _stored(stack, answer)
    assert mask.origin == "annotated"
    _check_same(kept, _referee(answer["result"]), _undecided(answer["result"]))
    stroma = kept == NAMES.index("stroma")
    places = [(x * SIDE, y * SIDE) for x, y in corners]
    if project.kind == "polygon":
        assert _iou(stroma, _filled(places)) > 0.97
    else:
        away = ndimage.distance_transform_edt(~_along(places))
        assert stroma[away == 0].all()
        brush_px = away[stroma].max()
        assert 1 < brush_px < 24
        assert stroma[away < brush_px - 2].all()
    # What was not drawn on is what was shown.
    assert _iou((kept == 1)[~stroma], (tile.predicted == 1)[~stroma]) >= (0.98 if project.kind == "polygon" else 1.0)


def _free_corners(taken: np.ndarray) -> list[tuple[float, float]]:
    """A triangle whose corners lie off every region: in the editor, a click on a region selects it. Its sides may cross
    regions, and the first place where it does is taken."""
    near = ndimage.binary_dilation(taken, iterations=4)
    crossing = []
    for y in range(20, SIDE - 110, 5):
        for x in range(20, SIDE - 110, 5):
            corners = [(x, y), (x + 85, y + 12), (x + 40, y + 85)]
            if not any(near[v, u] for u, v in corners):
                crossing.append(
                    (int((_filled([(float(u), float(v)) for u, v in corners]) & (taken > 0)).sum()), corners)
                )
    covered, corners = max(crossing)
    assert covered > 100
    return [(u / SIDE, v / SIDE) for u, v in corners]


def _change(stack: Stack, browser: LabelStreamBrowser, project: LabelProject, picture: Path) -> None:
    """The model's own region is changed, only the boxes being looked at: the change counts, what is elsewhere not."""
    tile = _tile(browser, project)
    shown = _segmentation(browser.current_task()["predictions"][0]["result"])
    assert browser.chosen() == ["only the boxes"]
    number = 0
    if project.kind == "polygon":
        # The editor may push a picture's rim out of its frame: a corner well inside can be reached.
        number, start = next(
            (n, (x / 100, y / 100))
            for n, item in enumerate(shown)
            for x, y in item["value"]["points"]
            if 15 < x < 85 and 15 < y < 85
        )
    browser.select_region(number)
    if project.kind == "polygon":
        browser.drag(start, (start[0] * 0.8 + 0.1, start[1] * 0.8 + 0.1))
    else:
        browser.drag((0.45, 0.5), (0.55, 0.5))
    browser.screenshot(picture)
    answer = browser.submit()
    by_id = {item["id"]: item for item in answer["result"]}
    changed = by_id[shown[number]["id"]]
    assert changed["value"] != shown[number]["value"]
    # Label Studio says nothing of a corner that was moved: only the pixels tell that this is no confirmation.
    assert changed["origin"] == ("prediction" if project.kind == "polygon" else "prediction-changed")
    assert len(_segmentation(answer["result"])) == len(shown)
    mask, kept = _stored(stack, answer)
    referee, before = _referee(answer["result"]), _referee(shown)
    assert (referee != before).any()
    looked_at = _boxes(answer["result"]) | (referee != before)
    assert mask.origin == "annotated"
    undecided = _undecided(answer["result"]) | _undecided(shown)
    _check_same(kept, np.where(looked_at, referee, 255), undecided)
    assert _iou(before == 1, tile.predicted == 1) >= 0.98


def _check_same(kept: np.ndarray, referee: np.ndarray, undecided: np.ndarray) -> None:
    """Equal wherever it is decided, and over a whole tile nearly equal everywhere."""
    differ = kept != referee
    assert not (differ & ~undecided).any()
    if (referee != 255).all():
        for number in np.unique(referee):
            assert _iou(kept == number, referee == number) >= 0.99


def _undecided(result: list[dict[str, Any]]) -> np.ndarray:
    """Pixels with an outline through their centre, nearly: fillings differ in what they take such a pixel for, and a
    line at 45 degrees from one pixel corner to another runs through many. Brush and bitmask have none."""
    rows, columns = np.mgrid[:SIDE, :SIDE] + 0.5
    centres = shapely.points(columns, rows)
    found = np.zeros((SIDE, SIDE), bool)
    for item in _segmentation(result):
        if item["type"] == "polygonlabels":
            outline = shapely.LinearRing(np.array(item["value"]["points"]) * SIDE / 100)
            shapely.prepare(outline)
            found |= shapely.dwithin(outline, centres, 1 / 8)
    return found


def _stored(stack: Stack, answer: dict[str, Any]) -> tuple[Mask, np.ndarray]:
    """The mask that the product made of a submitted annotation."""

    def look() -> Mask | None:
        with stack.database() as database, database.transaction() as session:
            query = select(Mask).join(Annotation, Annotation.id == Mask.annotation_id)
            return session.scalars(query.where(Annotation.ls_annotation_id == int(answer["id"]))).one_or_none()

    mask = stack.wait("the mask", look, 30)
    return mask, decode_raster(stack.blobs.get(mask.blob))


# The referee


def _referee(result: list[dict[str, Any]]) -> np.ndarray:
    """The class map of what the editor sent, read without the product's code."""
    items = _segmentation(result)
    brushed = iter(_sdk_reads([item["value"]["rle"] for item in items if item["type"] == "brushlabels"]))
    found = np.zeros((SIDE, SIDE), np.uint8)
    for item in items:
        value = item["value"]
        if item["type"] == "brushlabels":
            covered = next(brushed)
        elif item["type"] == "bitmasklabels":
            png = base64.b64decode(value["imageDataURL"].partition(",")[2])
            covered = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))[:, :, 3] >= 128
        else:
            covered = _filled([(x * SIDE / 100, y * SIDE / 100) for x, y in value["points"]])
        found[covered] = NAMES.index(value[item["type"]][0])
    return found


def _sdk_reads(lists: list[list[int]]) -> list[np.ndarray]:
    """Alpha of 128 and more, by the official SDK in its own environment."""
    if not lists:
        return []
    done = subprocess.run(
        [SDK_PYTHON, "-c", SDK_READS], input=json.dumps(lists), capture_output=True, text=True, check=True, timeout=120
    )
    return [
        np.unpackbits(np.array(bits, np.uint8))[: SIDE * SIDE].reshape(SIDE, SIDE).astype(bool)
        for bits in json.loads(done.stdout)
    ]


def _filled(points: list[tuple[float, float]], finer: int = 16) -> np.ndarray:
    """Pillow's filling of an outline on a finer grid, taken at pixel centres."""
    canvas = Image.new("1", (SIDE * finer, SIDE * finer))
    ImageDraw.Draw(canvas).polygon([(x * finer - 0.5, y * finer - 0.5) for x, y in points], fill=1)
    return np.asarray(canvas)[finer // 2 :: finer, finer // 2 :: finer]


def _along(points: list[tuple[float, float]]) -> np.ndarray:
    """The pixels under a line."""
    canvas = Image.new("1", (SIDE, SIDE))
    ImageDraw.Draw(canvas).line(points, fill=1)
    return np.asarray(canvas).copy()


def _boxes(result: list[dict[str, Any]]) -> np.ndarray:
    """The pixels inside Review boxes."""
    inside = np.zeros((SIDE, SIDE), bool)
    for item in result:
        if item["from_name"] == "review":
            x, y, width, height = (item["value"][key] * SIDE / 100 for key in ("x", "y", "width", "height"))
            inside[round(y) : round(y + height), round(x) : round(x + width)] = True
    return inside


def _pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))
