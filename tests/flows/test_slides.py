"""A folder of slides from registration to tasks in the real Label Studio, and the label of one back as GeoJSON."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import tifffile
from PIL import Image as Pillow
from sqlalchemy import select

from backend.labelstudio.results import class_map_to_result, scope_item
from backend.store import projects, tasks
from backend.store.tables import Image, Mask, Task, Tile
from mpamatch.domain.classes import ClassSet
from tests.flows.stack import Stack, running

pytestmark = [
    pytest.mark.processes,
    pytest.mark.labelstudio,
    pytest.mark.torch,
    pytest.mark.shared,
    pytest.mark.timeout(900),
]
CLASSES = ClassSet.from_names(["background", "gland"])
SCALED = ("--tile-px", "512", "--um-per-px", "1.0")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running([], first_of_all=True, head_size=30, retrain_after_tiles=1000, sweep_s=5) as up:
        yield up


def _head(stack: Stack) -> list[tuple[int, Tile, str]]:
    """The tasks of the head with their tiles and image files, once all tiles that wait are there."""
    with stack.database() as database, database.transaction() as session:
        project = projects.choose(session, None)
        live = {t.tile_id: t.ls_task_id for t in tasks.live(session, project.id) if t.model_version is not None}
        tiles = session.execute(select(Tile, Image.uri).join(Image, Image.id == Tile.image_id)).all()
    return [(live[t.id], t, uri) for t, uri in tiles] if tiles and {t.id for t, _ in tiles} <= set(live) else []


def test_slides_come_to_label_studio_and_their_labels_go_to_qupath(
    stack: Stack, shared_dir: Path, tmp_path: Path
) -> None:
    folder = shared_dir / "data" / "wsi"
    report = stack.cli("register", str(folder), "--classes", "background,gland", *SCALED)
    assert (report["images"], report["problems"]) == (2, [])
    assert report["tiles"] > 4

    head = stack.wait("every tile in the head", lambda: _head(stack))
    assert len(head) == report["tiles"]
    path = folder / "CMU-1-Small-Region-pyramid.tiff"
    mine = [one for one in head if Path(one[2]).name == path.name and one[1].y_px > 0]
    task_id, tile, _ = next(one for one in mine if one[1].size_px == (512, 512))
    assert tile.scale == 2.0

    # What the annotator's browser fetches is the slide's own tissue, at the tile's scale.
    client = stack.client
    fetched = httpx.get(client.task(task_id)["data"]["image"], timeout=60)
    assert fetched.status_code == 200
    shown = np.asarray(Pillow.open(io.BytesIO(fetched.content)))
    assert shown.shape == (512, 512, 3)
    level0 = tifffile.imread(path, key=0)
    part = level0[tile.y_px : tile.y_px + 1024, tile.x_px : tile.x_px + 1024]
    reduced = np.asarray(Pillow.fromarray(part).resize((512, 512), Pillow.Resampling.BOX))
    assert np.abs(shown.astype(int) - reduced).mean() < 6

    drawn = np.zeros((512, 512), np.uint8)
    drawn[40:200, 100:300] = 1
    client.create_annotation(task_id, [*class_map_to_result(drawn, CLASSES), scope_item("whole tile")], 5.0)

    def labelled() -> bool:
        with stack.database() as database, database.transaction() as session:
            task = session.scalars(select(Task).where(Task.ls_task_id == task_id)).one()
            return session.scalar(select(Mask.id).where(Mask.tile_id == task.tile_id)) is not None

    stack.wait("the label's mask", labelled)
    out = tmp_path / "out"
    told = stack.cli("masks", "export", str(out), "--format", "geojson")
    assert (told["masks"], told["files"], told["problems"]) == (1, ["CMU-1-Small-Region-pyramid.geojson"], [])
    features = json.loads((out / told["files"][0]).read_text())["features"]
    gland = [f for f in features if f["properties"]["classification"]["name"] == "gland"]
    assert len(gland) == 1
    ring = np.array(gland[0]["geometry"]["coordinates"][0])
    x, y = tile.x_px, tile.y_px
    assert (ring.min(axis=0).tolist(), ring.max(axis=0).tolist()) == ([x + 200, y + 80], [x + 600, y + 400])

    again = stack.cli("masks", "import", str(out))
    assert (again["masks"], again["unchanged"], again["problems"]) == (0, 1, [])
