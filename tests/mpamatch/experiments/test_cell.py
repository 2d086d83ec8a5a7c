"""What a cell's run folder holds before it trains."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mpamatch.datasets import open_dataset, phantom
from mpamatch.domain.classes import IGNORE
from mpamatch.errors import BadInput, Conflict, NotFound
from mpamatch.experiments.catalogue import find_experiment
from mpamatch.experiments.cell import _prepare, run_cell
from mpamatch.experiments.plans import CELL_PLAN
from mpamatch.experiments.protocol import Cell, Protocol, divide, divisions_of, plan_cells
from mpamatch.files.prompts import class_texts
from mpamatch.files.rasters import decode_raster
from mpamatch.training.run_spec import RunSpec, read_run

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tissue") / "drawn"
    phantom.write_folder(folder, tiles=10, groups=5, size_px=96)
    return folder


def cells(root: Path, experiment: str, *only: str, **more: Any) -> list[Cell]:
    return plan_cells(find_experiment(experiment, only=only), Protocol("phantom", root, "quick", 1, **more))


def prepared(folder: Path, cell: Cell) -> RunSpec:
    folder.mkdir()
    data = open_dataset(cell.dataset, cell.root)
    _prepare(folder, cell, divide(data, cell.fold, cell.folds))
    return read_run(folder)


def test_sparse_labels_are_small_boxes_on_every_image_and_alike_for_all_arms(root: Path, tmp_path: Path) -> None:
    first, second = (
        prepared(tmp_path / cell.arm, cell) for cell in cells(root, "ladder", "supervised", "fixmatch", regime="sparse")
    )
    assert len(first.labelled) == len(first.pool) == 8
    for one, other in zip(first.labelled, second.labelled, strict=True):
        assert one.mask is not None
        assert other.mask is not None
        assert one.mask.read_bytes() == other.mask.read_bytes()
        labelled = decode_raster(one.mask.read_bytes()) != IGNORE
        assert 32 * 32 <= labelled.sum() <= 2 * 32 * 32


def test_replaced_words_reach_the_run_and_no_others_do(root: Path, tmp_path: Path) -> None:
    plain, noisy = (prepared(tmp_path / c.arm, c) for c in cells(root, "prompt-noise", "as-written", "noise-2"))
    assert [c.prompts for c in plain.classes.classes] == [(), ()]
    written = class_texts(plain.classes.names, "P-nonsim", dataset="phantom")
    for texts, one in zip(written, noisy.classes.classes, strict=True):
        for before, after in zip(texts, one.prompts, strict=True):
            pairs = list(zip(before.split(), after.split(), strict=True))
            assert sum(a != b for a, b in pairs) == min(2, len(pairs))


def test_folds_leave_out_whole_patients_and_never_open_the_validation_list(root: Path) -> None:
    data = open_dataset("phantom", root)
    divisions = divisions_of(Protocol("phantom", root, "quick", 1, folds=2))
    train = {item.name for item in data.items("train")}
    assert sorted(item.name for one in divisions for item in one.scored) == sorted(train)
    for one in divisions:
        assert {i.name for i in one.train} | {i.name for i in one.scored} == train
        assert not {i.group for i in one.train} & {i.group for i in one.scored}
    for folds in (1, 99):
        with pytest.raises(BadInput):
            divisions_of(Protocol("phantom", root, "quick", 1, folds=folds))


def test_a_start_of_another_encoder_is_refused(root: Path, tmp_path: Path) -> None:
    from mpamatch.files.starter import starter_folder

    (cell,) = cells(root, "ladder", "supervised", encoder="tiny")
    with pytest.raises(BadInput, match="has the encoder light, the cell tiny"):
        prepared(tmp_path / "a", replace(cell, start=starter_folder()))
    (cell,) = cells(root, "ladder", "supervised", start=starter_folder())
    assert prepared(tmp_path / "b", cell).full_schedule


def test_a_plan_comes_back_from_its_file(root: Path) -> None:
    from mpamatch.files.starter import starter_folder

    for cell in cells(root, "prompt-noise", start=starter_folder()):
        assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell
    with pytest.raises(BadInput, match="damaged"):
        Cell.from_json({"arm": "a"})


def test_a_start_is_the_same_wherever_it_lies_and_another_one_once_its_weights_are_others(
    root: Path, tmp_path: Path
) -> None:
    from mpamatch.files.starter import starter_folder

    (there,) = cells(root, "ladder", "supervised", start=starter_folder())
    copied = Path(shutil.copytree(starter_folder(), tmp_path / "copied"))
    (here,) = cells(root, "ladder", "supervised", start=copied)
    assert here.start != there.start
    assert here.comparable() == there.comparable()
    with open(copied / "model.safetensors", "ab") as file:
        file.write(b" ")
    (other,) = cells(root, "ladder", "supervised", start=copied)
    assert other.comparable() != there.comparable()
    older = {name: value for name, value in there.to_json().items() if name != "start_sha256"}
    assert Cell.from_json(older) == replace(there, start_sha256=None)
    (without,) = cells(root, "ladder", "supervised")
    assert Cell.from_json(older).comparable() != without.comparable(), "a warm cell is never taken for a cold one"


def test_a_start_that_was_replaced_before_its_cell_began_is_refused(root: Path, tmp_path: Path) -> None:
    from mpamatch.files.starter import starter_folder

    copied = Path(shutil.copytree(starter_folder(), tmp_path / "copied"))
    (cell,) = cells(root, "ladder", "supervised", start=copied)
    with open(copied / "model.safetensors", "ab") as file:
        file.write(b" ")
    with pytest.raises(Conflict, match="other weights than when the experiment was begun"):
        prepared(tmp_path / "cell", cell)


def test_the_folder_of_weights_reaches_the_run_and_plans_without_one_are_read(root: Path, tmp_path: Path) -> None:
    (cell,) = cells(root, "text-encoders", "text-conch", weights_dir=tmp_path)
    again = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert again == cell
    assert prepared(tmp_path / "cell", again).weights_dir == tmp_path.resolve()
    older = {name: value for name, value in cell.to_json().items() if name != "weights_dir"}
    assert Cell.from_json(older) == replace(cell, weights_dir=None)


def test_a_cell_that_lacked_its_weights_finds_them_in_a_folder_that_is_named_later(root: Path, tmp_path: Path) -> None:
    (cell,) = cells(root, "text-encoders", "text-conch")
    folder = tmp_path / "cell"
    folder.mkdir()
    for each, said in ((cell, "no folder of weights given"), (replace(cell, weights_dir=tmp_path), "is missing")):
        (folder / CELL_PLAN).write_text(json.dumps(each.to_json()))
        with pytest.raises(NotFound, match=said):
            run_cell(folder, clock=lambda: 0.0, stop=lambda: False)


def test_left_out_folds_are_kept_beside_the_validation_list_and_not_over_it(root: Path) -> None:
    from mpamatch.cli.experiment import _place

    plain, folded = (_place("ladder", Protocol("phantom", root, "quick", 1, folds=n)) for n in (0, 2))
    assert plain != folded
