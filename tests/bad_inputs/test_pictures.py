import os
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from backend.actions.first_project import register_folder
from backend.actions.register_images import RegisterItem, RegisterReport, register
from backend.store.tables import Image, Tile
from mpamatch.files.images import read_image
from tests.bad_inputs.pictures import PICTURES, BadPicture, tissue
from tests.builders import Installation, installation

pytestmark = pytest.mark.database
GOOD = 2
EQUAL_WITHIN = {"jpeg-inside.png": 6, "turned.jpg": 6}  # what a JPEG loses


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """An empty project."""
    (tmp_path / "state").mkdir()
    return installation(database_url, tmp_path / "state", train=0, audit=0)


def _register(made: Installation, folder: Path) -> RegisterReport:
    return register_folder(made.database, made.blobs, made.project(), folder)


def _good_neighbours(folder: Path) -> None:
    """One before and one after everything else, in the order of names."""
    for name, seed in ((" first.png", 1001), ("~last.png", 1002)):
        (folder / name).write_bytes(_png(seed))


def _png(seed: int) -> bytes:
    from mpamatch.files.images import encode_png

    return encode_png(tissue(seed))


def _tiles(made: Installation, path: Path) -> list[np.ndarray]:
    """The pixels of the tiles that came from a file, or from a folder of that name."""
    with made.database.transaction() as session:
        rows = session.execute(select(Image.uri, Tile.png_blob).join(Tile, Tile.image_id == Image.id)).all()
    return [read_image(made.blobs.get(blob)) for uri, blob in rows if uri == str(path) or uri.startswith(f"{path}/")]


def _skip_where_root_may(case: BadPicture) -> None:
    if case.not_for_root and os.geteuid() == 0:
        pytest.skip("root may read everything")


@pytest.mark.parametrize("case", PICTURES, ids=[ascii(c.file) for c in PICTURES])
def test_each_gives_its_one_line_or_its_pixels_and_its_neighbours_go_on(
    made: Installation, tmp_path: Path, case: BadPicture
) -> None:
    _skip_where_root_may(case)
    folder = tmp_path / "pictures"
    folder.mkdir()
    _good_neighbours(folder)
    path = folder / case.file
    case.make(path)
    report = _register(made, folder)
    assert report.images == GOOD + case.taken
    if case.taken:
        assert case.shown is not None
        assert report.problems == []
        (pixels,) = _tiles(made, path)
        difference = np.abs(pixels.astype(int) - case.shown().astype(int))
        assert pixels.shape == case.shown().shape
        assert difference.max() <= EQUAL_WITHIN.get(case.file, 0)
    else:
        (line,) = report.problems
        assert case.gives(line, path), line
        assert line.isprintable()
        assert _tiles(made, path) == []


def test_what_was_refused_is_set_aside_once_however_often_it_is_registered(made: Installation, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "zero.png").touch()
    first, second = _register(made, folder), _register(made, folder)
    assert first.problems == second.problems
    with made.database.transaction() as session:
        (row,) = session.scalars(select(Image))
    assert first.problems[0].startswith(str(folder / "zero.png")), "whoever registers sees where it lies"
    said = first.problems[0].replace(str(folder / "zero.png"), "zero.png")
    assert (row.state, row.problem) == ("quarantined", said), "and the row does not say it"


def test_a_file_that_vanished_between_listing_and_reading_is_one_line(made: Installation, tmp_path: Path) -> None:
    stays, gone = tmp_path / "a.png", tmp_path / "b.png"
    stays.write_bytes(_png(1))
    report = register(made.database, made.blobs, made.project_id, [RegisterItem(p, p.stem) for p in (gone, stays)])
    assert report.problems == [
        f"{gone}: cannot be read (No such file or directory); check that it exists and may be read"
    ]
    assert report.images == 1
