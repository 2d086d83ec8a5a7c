from pathlib import Path

import pytest
from sqlalchemy import select

from backend.actions.first_project import register_folder
from backend.store import masks
from backend.store.tables import Mask
from mpamatch.files.images import encode_png
from mpamatch.files.rasters import decode_raster
from tests.bad_inputs.drawn_masks import MASKS, BadMask, gland
from tests.bad_inputs.pictures import tissue
from tests.builders import Installation, installation

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """An empty project."""
    (tmp_path / "state").mkdir()
    return installation(database_url, tmp_path / "state", train=0, audit=0)


@pytest.mark.parametrize("case", MASKS, ids=[c.file for c in MASKS])
def test_each_gives_its_one_line_or_its_ids_and_its_picture_is_taken(
    made: Installation, tmp_path: Path, case: BadMask
) -> None:
    folder = tmp_path / "pictures"
    (folder / "masks").mkdir(parents=True)
    stem = Path(case.file).stem
    for name, seed in (("a", 1), (stem, 2), ("z", 3)):
        (folder / f"{name}.png").write_bytes(encode_png(tissue(seed)))
    for name in ("a", "z"):
        (folder / "masks" / f"{name}.png").write_bytes(encode_png(gland()))
    path = folder / "masks" / case.file
    case.make(path)
    report = register_folder(made.database, made.blobs, made.project(), folder)
    assert report.images == 3
    assert report.problems == ([] if case.line is None else [case.line.replace("{path}", str(path))])
    with made.database.transaction() as session:
        kept = [made.blobs.get(m.blob) for m in session.scalars(select(Mask).order_by(Mask.id))]
        counting = masks.current(session, made.project_id)
    assert report.masks == len(kept) == (2 if case.mask is None else 3)
    if case.mask is not None:
        assert (decode_raster(kept[1]) == case.mask()).all()
        assert len(counting) == (2 if (case.mask() == 255).all() else 3)  # what says nothing is never trained on
