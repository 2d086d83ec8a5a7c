import csv
from pathlib import Path

import numpy as np
import pytest
import tifffile

from backend.actions.first_project import register_folder
from backend.actions.register_images import RegisterItem, register
from backend.actions.register_source import read_source
from backend.store import images, pool
from backend.store.tables import Image
from mpamatch.domain.policy import Policy
from mpamatch.domain.tiling import Box
from mpamatch.files.images import encode_png, read_image
from tests.builders import Installation, installation, picture
from tests.mpamatch.files.slide_files import halved, tissue, write_pyramid, write_svs

pytestmark = pytest.mark.database

SMALL = Policy(debounce_s=0, tile_px=256, tile_um_per_px=0.5)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(database_url, tmp_path, train=0, audit=0, policy=SMALL)


def _only_image(made: Installation) -> Image:
    with made.database.transaction() as session:
        return session.query(Image).one()


def test_a_slide_is_cut_at_the_scale_of_its_project(made: Installation, tmp_path: Path) -> None:
    slide = tissue(2048, 1536)
    path = write_pyramid(tmp_path / "slide.tif", slide, um_per_px=0.25)
    items = [RegisterItem(path, "a", split="train"), RegisterItem(_png(tmp_path, 1), "b")]
    report = register(made.database, made.blobs, made.project_id, items)
    assert not report.problems
    assert _image_of(made, path).um_per_px == pytest.approx(0.25, rel=1e-6)
    tiles = [t for t in made.tiles() if t.scale == 2.0]
    assert len(tiles) == 12
    wanted = halved(slide)
    for tile in tiles:
        assert (tile.width_px, tile.height_px, tile.size_px) == (512, 512, (256, 256))
        shown = read_image(made.blobs.get(tile.png_blob)).astype(int)
        x, y = tile.x_px // 2, tile.y_px // 2
        assert np.abs(shown - wanted[y : y + 256, x : x + 256]).max() <= 1


def _png(folder: Path, number: int) -> Path:
    path = folder / f"{number}.png"
    path.write_bytes(encode_png(picture(number)))
    return path


def _image_of(made: Installation, path: Path) -> Image:
    with made.database.transaction() as session:
        return session.query(Image).filter(Image.uri == str(path)).one()


def test_glass_without_tissue_makes_no_tile(made: Installation, tmp_path: Path) -> None:
    slide = np.full((1024, 2048, 3), 244, np.uint8)
    slide[:, :512] = tissue(512, 1024)
    path = write_pyramid(tmp_path / "slide.tif", slide, um_per_px=0.5)
    report = register(made.database, made.blobs, made.project_id, [RegisterItem(path, "a", split="train")])
    assert report.tiles == 8
    assert max(t.x_px + t.width_px for t in made.tiles()) <= 512


def test_a_small_picture_stays_one_tile_whatever_its_scale(made: Installation, tmp_path: Path) -> None:
    path = tmp_path / "small.png"
    path.write_bytes(encode_png(picture(3, size=380)))
    register(made.database, made.blobs, made.project_id, [RegisterItem(path, "a", um_per_px=0.1)])
    tile = made.tiles()[0]
    assert (tile.box, tile.scale) == (Box(0, 0, 380, 380), 1.0)
    assert (read_image(made.blobs.get(tile.png_blob)) == picture(3, size=380)).all()


def test_a_slide_of_unknown_scale_says_so_and_keeps_its_own_pixels(made: Installation, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "slide.tif", tissue(1024, 1024), um_per_px=None)
    report = register(made.database, made.blobs, made.project_id, [RegisterItem(path, "a", split="train")])
    assert [note for note in report.notes if "um per px is unknown" in note and "slide.tif" in note]
    assert {t.scale for t in made.tiles()} == {1.0}


def test_the_scale_of_a_manifest_counts_before_that_of_the_file(made: Installation, tmp_path: Path) -> None:
    write_pyramid(tmp_path / "slide.tif", tissue(1024, 1024), um_per_px=0.5)
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,group,um_per_px,split\nslide.tif,case-1,0.25,audit\n")
    register(made.database, made.blobs, made.project_id, read_source(manifest).items)
    image = _only_image(made)
    assert (image.um_per_px, image.group_name, image.split) == (0.25, "case-1", "audit")
    assert {t.scale for t in made.tiles()} == {2.0}
    with made.database.transaction() as session:
        assert {round(t.um_per_px or 0, 6) for t in images.pool(session, made.project_id)} == {0.5}


def test_a_single_slide_is_parted_with_a_margin_and_says_so(made: Installation, tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "slide.tif", tissue(768, 2048), um_per_px=0.5)
    report = register(made.database, made.blobs, made.project_id, [RegisterItem(path, "a")])
    assert [note for note in report.notes if "audit block" in note and "slide.tif" in note]
    audit = [t for t in made.tiles() if t.split == "audit"]
    train = [t for t in made.tiles() if t.split is None]
    assert _only_image(made).split == "train"
    assert len(audit) >= 3
    assert len(train) > len(audit)
    last = max(t.y_px + t.height_px for t in train)
    assert min(t.y_px for t in audit) - last >= 64
    with made.database.transaction() as session:
        counted = images.counts(session, made.project_id)
        assert (counted["train_tiles"], counted["audit_tiles"]) == (len(train), len(audit))
        ids = {t.tile_id for t in images.pool(session, made.project_id, split="audit")}
        assert ids == {t.id for t in audit} == images.audit_tiles(session, [t.id for t in made.tiles()])


def test_the_queue_asks_for_the_audit_block_of_a_single_slide_blindly(made: Installation, tmp_path: Path) -> None:
    from backend.actions.show_tile import read_shown
    from backend.store import projects
    from tests.builders import add_model, predict_all

    path = write_pyramid(tmp_path / "slide.tif", tissue(768, 2048), um_per_px=0.5)
    register(made.database, made.blobs, made.project_id, [RegisterItem(path, "a")])
    model = add_model(made, "m1", "candidate")
    predict_all(made, model, np.zeros((256, 256), np.uint8))
    with made.database.transaction() as session:
        found = pool.read_pool(session, projects.get(session, made.project_id), model.id)
        facts = {int(t): "audit" if a else "train" for t, a in zip(found.tile_ids, found.audit, strict=True)}
        assert facts == {t.id: t.split or "train" for t in made.tiles()}
        shown = read_shown(session, projects.get(session, made.project_id), "m1", list(facts))
    assert {t for t, one in shown.items() if one.class_blob is None} == {t for t, s in facts.items() if s == "audit"}


def test_a_second_group_is_audit_and_a_new_slide_of_a_parted_group_is_parted_too(
    made: Installation, tmp_path: Path
) -> None:
    for number, group in enumerate(("a", "b", "a")):
        path = write_pyramid(tmp_path / f"{number}.tif", tissue(768, 2048, seed=number), um_per_px=0.5)
        register(made.database, made.blobs, made.project_id, [RegisterItem(path, group)])
    with made.database.transaction() as session:
        found = [(i.group_name, i.split) for i in session.query(Image).order_by(Image.id)]
        splits = [{t.split for t in images.tiles_of(session, i.id)} for i in session.query(Image).order_by(Image.id)]
    assert found == [("a", "train"), ("b", "audit"), ("a", "train")]
    assert splits == [{None, "audit"}, {None}, {None, "audit"}]


def test_registering_a_slide_again_changes_nothing(made: Installation, tmp_path: Path) -> None:
    items = [RegisterItem(write_svs(tmp_path / "slide.svs", tissue(1024, 1024), um_per_px=0.5), "a")]
    first = register(made.database, made.blobs, made.project_id, items)
    before = [(t.id, t.box, t.split, t.png_blob) for t in made.tiles()]
    again = register(made.database, made.blobs, made.project_id, items)
    assert (first.images, again.images, again.known, again.tiles) == (1, 0, 1, 0)
    assert [(t.id, t.box, t.split, t.png_blob) for t in made.tiles()] == before


def test_a_torn_slide_is_set_aside_and_the_rest_goes_on(made: Installation, tmp_path: Path) -> None:
    whole = write_svs(tmp_path / "whole.svs", tissue(1024, 1024), um_per_px=0.5)
    torn = tmp_path / "torn.svs"
    torn.write_bytes(whole.read_bytes()[:50_000])
    items = [RegisterItem(torn, "a"), RegisterItem(whole, "b")]
    report = register(made.database, made.blobs, made.project_id, items)
    assert report.images == 1
    assert len(report.problems) == 1
    assert "torn.svs" in report.problems[0]
    assert _image_of(made, torn).state == "quarantined"


def test_a_bad_row_of_a_manifest_is_one_line_and_a_known_group_keeps_its_split(
    made: Installation, tmp_path: Path
) -> None:
    for number in range(3):
        _png(tmp_path, number)
    register(made.database, made.blobs, made.project_id, [RegisterItem(tmp_path / "0.png", "known", split="audit")])
    manifest = tmp_path / "list.csv"
    with manifest.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [["path", "group", "split"], ["1.png", "known", "train"], ["absent.png", "b", ""], ["2.png", "c", "train"]]
        )
    source = read_source(manifest)
    report = register(made.database, made.blobs, made.project_id, source.items)
    assert report.images == 1
    assert len(source.problems) == 1
    assert "line 3" in source.problems[0]
    assert len(report.problems) == 1
    assert "known is in audit already" in report.problems[0]


def test_two_files_of_one_slide_take_one_group_and_it_is_said(made: Installation, tmp_path: Path) -> None:
    slide = tissue(768, 2048)
    write_pyramid(tmp_path / "a.tif", slide, um_per_px=0.5)
    register_folder(made.database, made.blobs, made.project(), tmp_path / "a.tif")
    write_svs(tmp_path / "b.svs", slide, um_per_px=0.5)
    write_pyramid(tmp_path / "c.tif", tissue(768, 2048, seed=7)[:, ::-1], um_per_px=0.5)
    report = register_folder(made.database, made.blobs, made.project(), tmp_path)
    assert not report.problems
    with made.database.transaction() as session:
        groups = {Path(i.uri).name: i.group_name for i in session.query(Image)}
        tiles = {
            Path(i.uri).name: [(t.box, t.split) for t in images.tiles_of(session, i.id)] for i in session.query(Image)
        }
    assert groups == {"a.tif": "a.tif", "b.svs": "a.tif", "c.tif": "c.tif"}
    assert tiles["a.tif"] == tiles["b.svs"]
    told = [note for note in report.notes if "same tissue" in note]
    assert len(told) == 1
    assert "b.svs" in told[0]


def test_a_manifest_that_names_groups_is_not_second_guessed(made: Installation, tmp_path: Path) -> None:
    slide = tissue(768, 1024)
    write_pyramid(tmp_path / "a.tif", slide, um_per_px=0.5)
    write_svs(tmp_path / "b.svs", slide, um_per_px=0.5)
    (tmp_path / "list.csv").write_text("path,group\na.tif,one\nb.svs,two\n")
    report = register_folder(made.database, made.blobs, made.project(), tmp_path / "list.csv")
    with made.database.transaction() as session:
        assert {i.group_name for i in session.query(Image)} == {"one", "two"}
    assert not [note for note in report.notes if "same tissue" in note]


@pytest.mark.shared
def test_both_published_slides_come_in_with_tissue_only(database_url: str, tmp_path: Path, shared_dir: Path) -> None:
    made = installation(database_url, tmp_path, train=0, audit=0)
    report = register_folder(made.database, made.blobs, made.project(), shared_dir / "data" / "wsi")
    assert report.images == 2
    assert not report.problems
    with made.database.transaction() as session:
        found = session.query(Image).all()
        assert len({i.group_name for i in found}) == 1
        boxes = [{(t.box, t.split) for t in images.tiles_of(session, i.id)} for i in found]
    # The same tissue is in one split, whichever of the two files it comes from.
    assert boxes[0] == boxes[1]
    assert {split for _, split in boxes[0]} == {None, "audit"}
    level0 = tifffile.imread(shared_dir / "data" / "wsi" / "CMU-1-Small-Region.svs", key=0)
    for tile in made.tiles():
        assert tile.tissue_share >= 0.1
        assert all(512 <= side <= 1536 for side in tile.size_px)
        part = level0[tile.y_px : tile.y_px + tile.height_px, tile.x_px : tile.x_px + tile.width_px].astype(int)
        assert np.abs(read_image(made.blobs.get(tile.png_blob)) - part).mean() < 8
