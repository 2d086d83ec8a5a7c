"""An image as a whole: pictures, how unsure the model is, regions where they lie; and nothing that would bend the
yardstick."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image as Picture

from backend.actions.keep_prediction import keep_prediction
from backend.actions.see_image import see_image
from backend.dashboard.pages import MOST_PICTURES
from backend.store import predictions, projects
from backend.store.tables import Image, Tile
from mpamatch.domain.regions import Region
from mpamatch.domain.tiling import Box
from mpamatch.errors import NotFound
from mpamatch.files.rasters import decode_raster
from tests.backend.dashboard.test_pages import PROJECT, Tags, Visit, empty, plain
from tests.builders import SIZE, Installation, disc

pytestmark = pytest.mark.database


def _slide(made: Installation, across: int, down: int) -> int:
    """An image of tiles side by side, each twice as wide in level-0 pixels as its picture; the champion has seen all
    but the last. Returns its number."""
    side = 2 * SIZE
    first = made.tiles("train")[9]
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        image = session.get_one(Image, first.image_id)
        image.width_px, image.height_px, image.um_per_px = across * side, down * side, 0.25
        moved = session.get_one(Tile, first.id)
        moved.width_px = moved.height_px = side
        moved.scale = 2.0
        places = [(x * side, y * side) for y in range(down) for x in range(across)][1:]
        rows = [
            Tile(
                project_id=made.project_id,
                image_id=image.id,
                x_px=x,
                y_px=y,
                width_px=side,
                height_px=side,
                scale=2.0,
                tissue_share=1.0,
                png_blob=first.png_blob,
            )
            for x, y in places
        ]
        session.add_all(rows)
        session.flush()
        ids = [row.id for row in rows]
    ring = ((10.0, 10.0), (30.0, 10.0), (30.0, 30.0), (10.0, 30.0), (10.0, 10.0))
    region = Region(Box(10, 10, 20, 20), (ring,), 2048, 0.5, 0.2, 0.3, 0.0, 1, 0.6)
    for tile_id in ids[:-1]:
        keep_prediction(
            made.database,
            made.blobs,
            tile_id=tile_id,
            model_id=champion.id,
            class_map=disc(),
            confidence=np.full((SIZE, SIZE), 0.6, np.float32),
            regions=(region,),
        )
    return first.image_id


def _map(client: TestClient, image_id: int, query: str = "") -> tuple[str, str]:
    text = client.get(f"{PROJECT}/images/{image_id}{query}").text
    return text.split('<svg class="map"')[1].split("</svg>")[0], text


def test_an_image_shows_its_tiles_where_they_lie_with_regions_and_uncertainty(visit: Visit, made: Installation) -> None:
    image_id = _slide(made, 2, 2)
    client = visit(made.folder)
    drawn, text = _map(client, image_id)
    assert drawn.startswith(' viewBox="0 0 256 256" role="img"')
    pictures = [(a["x"], a["y"], a["width"], a["href"]) for tag, a in Tags(drawn).found if tag == "image"]
    small = [one for one in pictures if one[3].endswith("small.jpg")]
    heat = [one for one in pictures if one[3].endswith("uncertainty-small.png")]
    assert sorted(one[:2] for one in small) == [("0", "0"), ("0", "128"), ("128", "0"), ("128", "128")]
    assert len(heat) == 3  # one tile is not predicted yet
    assert {client.get(one[3]).status_code for one in pictures} == {200}
    # A region's outline is in pixels of its tile's picture, which are two of the image's.
    assert 'transform="translate(128 0) scale(2.0)"' in drawn
    assert drawn.count('<path class="line"') == 3
    rows = plain(text.split("<tbody>")[1])
    assert re.search(r"Tile \d+ 0, 0 train rank \d+, waits – 1 9\.8 %", rows)  # 400 of 64 x 64 px
    assert re.search(r"Tile \d+ 128, 0 train – – 1 50\.0 %", rows)  # not ranked yet
    assert re.search(r"Tile \d+ 128, 128 train – – – –", rows)
    assert "256 × 256 px at 0.25 µm per px, 4 tiles" in plain(text)


def test_a_slide_of_many_tiles_is_shaded_and_listed_by_pages(visit: Visit, made: Installation) -> None:
    image_id = _slide(made, 12, 10)
    client = visit(made.folder)
    drawn, text = _map(client, image_id)
    tags = Tags(drawn).found
    assert MOST_PICTURES < 120
    assert not [a for tag, a in tags if tag == "image"]
    shades = [a["fill-opacity"] for tag, a in tags if tag == "rect" and "shade" in a["class"]]
    assert sorted(set(shades)) == ["0.09", "0.45"]  # 0.9 times the share that lies in regions
    assert len(shades) == 119
    assert text.count('<th scope="row">') == 100
    _, second = _map(client, image_id, "?page=2")
    assert second.count('<th scope="row">') == 20
    assert "Page 2 of 2" in plain(second)
    assert client.get(f"{PROJECT}/images/{image_id}?page=x").status_code == 404


def test_of_an_audit_tile_that_nobody_labelled_nothing_of_the_model_is_seen(visit: Visit, made: Installation) -> None:
    labelled, blind = made.tiles("audit")[:2]
    client = visit(made.folder)
    drawn, text = _map(client, blind.image_id)
    assert "uncertainty" not in drawn
    assert '<path class="line"' not in drawn
    assert "m2 shows nothing here" in plain(text)
    assert client.get(f"{PROJECT}/tiles/{blind.id}/uncertainty-small.png").status_code == 404
    drawn, _ = _map(client, labelled.image_id)
    assert "uncertainty-small.png" in drawn


def test_the_small_picture_of_uncertainty_is_the_mean_of_the_large_one(visit: Visit, made: Installation) -> None:
    tile = made.tiles("train")[7]
    rows, columns = np.mgrid[:640, :640]
    confidence = (0.5 + 0.5 * ((rows + columns) % 2)).astype(np.float32)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        found = predictions.of(session, tile.id, champion.id)
        assert found is not None
        predictions.forget(session, found.id)
    keep_prediction(
        made.database,
        made.blobs,
        tile_id=tile.id,
        model_id=champion.id,
        class_map=np.zeros((640, 640), np.uint8),
        confidence=confidence,
        regions=(),
    )
    client = visit(made.folder)
    small = np.array(Picture.open(io.BytesIO(client.get(f"{PROJECT}/tiles/{tile.id}/uncertainty-small.png").content)))
    large = np.array(Picture.open(io.BytesIO(client.get(f"{PROJECT}/tiles/{tile.id}/uncertainty.png").content)))
    assert (small.shape, large.shape) == ((320, 320, 4), (640, 640, 4))
    with made.database.transaction() as session:
        stored = predictions.of(session, tile.id, champion.id)
    assert stored is not None
    assert len(np.unique(decode_raster(made.blobs.get(stored.confidence_blob)))) == 2
    assert len(np.unique(small[..., 3])) == 1
    assert large[..., 3].min() < small[0, 0, 3] < large[..., 3].max()


def test_an_image_of_another_project_or_none_is_not_shown(visit: Visit, database_url: str, made: Installation) -> None:
    empty(database_url)
    client = visit(made.folder)
    image_id = made.tiles()[0].image_id
    assert client.get(f"/projects/empty-one/images/{image_id}").status_code == 404
    assert client.get(f"{PROJECT}/images/{10**30}").status_code == 404
    with made.database.transaction() as session, pytest.raises(NotFound):
        see_image(session, projects.get(session, made.project_id), image_id + 10_000)


def test_an_image_that_is_set_aside_says_why(visit: Visit, made: Installation) -> None:
    with made.database.transaction() as session:
        aside = session.query(Image).filter(Image.state == "quarantined").one()
    text = visit(made.folder).get(f"{PROJECT}/images/{aside.id}").text
    assert "Set aside: cannot be read" in plain(text)
