from pathlib import Path

import numpy as np
import pytest

from backend.actions.register_images import RegisterItem, register
from backend.store import images, masks
from backend.store.tables import Image
from mpamatch.files.images import encode_png, read_image
from mpamatch.files.masks import write_mask
from mpamatch.files.rasters import decode_raster, encode_raster
from tests.builders import Installation, disc, installation, picture

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(database_url, tmp_path, train=0, audit=0)


def _png(folder: Path, name: str, image: np.ndarray) -> Path:
    path = folder / name
    path.write_bytes(encode_png(image))
    return path


def test_one_bad_item_is_set_aside_with_its_reason_and_the_rest_goes_on(made: Installation, tmp_path: Path) -> None:
    bad = tmp_path / "torn.png"
    bad.write_bytes(encode_png(picture(2))[:200])
    empty = tmp_path / "empty.png"
    empty.write_bytes(b"")
    items = [
        RegisterItem(bad, "a"),
        RegisterItem(empty, "b"),
        RegisterItem(tmp_path / "absent.png", "c"),
        RegisterItem(_png(tmp_path, "good.png", picture(3)), "d"),
    ]
    report = register(made.database, made.blobs, made.project_id, items)
    assert (report.images, report.tiles) == (1, 1)
    assert len(report.problems) == 3
    assert all(str(item.path) in line for item, line in zip(items, report.problems, strict=False))
    with made.database.transaction() as session:
        assert images.counts(session, made.project_id)["quarantined"] == 2


def test_registering_again_changes_nothing(made: Installation, tmp_path: Path) -> None:
    items = [RegisterItem(_png(tmp_path, f"{n}.png", picture(n)), f"case-{n}") for n in range(3)]
    assert register(made.database, made.blobs, made.project_id, items).images == 3
    again = register(made.database, made.blobs, made.project_id, items)
    assert (again.images, again.known, again.tiles) == (0, 3, 0)
    assert len(made.tiles()) == 3


def test_a_mask_that_comes_later_is_taken_and_the_same_one_only_once(made: Installation, tmp_path: Path) -> None:
    path = _png(tmp_path, "a.png", picture(1))
    register(made.database, made.blobs, made.project_id, [RegisterItem(path, "a")])
    mask = tmp_path / "a_mask.png"
    mask.write_bytes(write_mask(disc()))
    with_mask = [RegisterItem(path, "a", mask=mask)]
    assert register(made.database, made.blobs, made.project_id, with_mask).masks == 1
    assert register(made.database, made.blobs, made.project_id, with_mask).masks == 0
    with made.database.transaction() as session:
        current = masks.current(session, made.project_id)
    assert [m.version for m in current] == [1]
    assert (decode_raster(made.blobs.get(current[0].blob)) == disc()).all()


def test_a_large_image_is_cut_where_there_is_tissue(made: Installation, tmp_path: Path) -> None:
    slide = np.full((2048, 2048, 3), 255, np.uint8)
    slide[:1024, :1024] = (180, 60, 120)
    report = register(made.database, made.blobs, made.project_id, [RegisterItem(_png(tmp_path, "s.png", slide), "s")])
    assert report.tiles == 1
    tile = made.tiles()[0]
    assert (tile.x_px, tile.y_px, tile.width_px) == (0, 0, 1024)
    assert (read_image(made.blobs.get(tile.png_blob)) == slide[:1024, :1024]).all()


def test_a_group_keeps_its_split_as_more_images_come(made: Installation, tmp_path: Path) -> None:
    before: dict[str, str] = {}
    for batch in range(3):
        items = [
            RegisterItem(_png(tmp_path, f"{batch}-{n}.png", picture(100 * batch + n)), f"case-{n}")
            for n in range(10 + 5 * batch)
        ]
        register(made.database, made.blobs, made.project_id, items)
        with made.database.transaction() as session:
            splits = images.known_splits(session, made.project_id)
        assert {g: splits[g] for g in before} == before
        before = splits
    assert set(before.values()) == {"train", "audit"}


def test_an_image_that_is_mended_keeps_its_group_its_split_and_its_scale(made: Installation, tmp_path: Path) -> None:
    path = _png(tmp_path, "a.png", picture(7))
    item = RegisterItem(path, "case-1", split="audit", um_per_px=0.5)
    register(made.database, made.blobs, made.project_id, [item])
    (tile,) = made.tiles()
    content = made.blobs.path(tile.png_blob).read_bytes()
    made.blobs.path(tile.png_blob).unlink()
    with made.database.transaction() as session:
        images.quarantine(session, tile.image_id, "its picture is gone", actor="test")
    report = register(
        made.database, made.blobs, made.project_id, [RegisterItem(path, "case-2", split="train", um_per_px=2.0)]
    )
    assert report.problems == [
        f"{path}: is in group case-1 already, not in case-2; an image keeps its group; correct the manifest"
    ]
    with made.database.transaction() as session:
        image = session.get_one(Image, tile.image_id)
        assert (image.state, image.problem) == ("ready", None)
        assert (image.group_name, image.split, image.um_per_px) == ("case-1", "audit", 0.5)
    assert made.blobs.get(tile.png_blob) == content
    assert len(made.tiles()) == 1


def test_a_mask_of_another_size_is_one_line_and_the_image_stays(made: Installation, tmp_path: Path) -> None:
    mask = tmp_path / "m.png"
    mask.write_bytes(write_mask(disc(size=32, x=16, y=16, radius=5)))
    report = register(
        made.database, made.blobs, made.project_id, [RegisterItem(_png(tmp_path, "a.png", picture(1)), "a", mask=mask)]
    )
    assert (report.images, report.masks, len(report.problems)) == (1, 0, 1)
    assert "m.png" in report.problems[0]


def test_registering_a_folder_again_lays_no_mask_over_what_was_drawn_since(made: Installation, tmp_path: Path) -> None:
    mask = tmp_path / "a_mask.png"
    mask.write_bytes(write_mask(disc()))
    items = [RegisterItem(_png(tmp_path, "a.png", picture(1)), "a", mask=mask)]
    register(made.database, made.blobs, made.project_id, items)
    drawn = made.blobs.put(encode_raster(disc(x=20)))
    with made.database.transaction() as session:
        masks.append(session, tile_id=made.tiles()[0].id, origin="annotated", blob=drawn, reviewed_share=1.0)
    assert register(made.database, made.blobs, made.project_id, items).masks == 0
    with made.database.transaction() as session:
        assert [m.blob for m in masks.current(session, made.project_id)] == [drawn]
