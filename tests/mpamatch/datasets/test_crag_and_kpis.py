"""Two sets that nobody may hand on: opened here from images that are made to their published layout."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mpamatch.cli.chosen_data import HELP
from mpamatch.datasets import DATASET_NAMES, open_dataset
from mpamatch.errors import BadInput
from tests.mpamatch.datasets.test_datasets import groups, names, put, put_lists

BLOB = np.zeros((64, 64), np.uint8)
BLOB[10:40, 20:50] = 1


def put_jpeg(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90 if pixels.max() > 1 else 100)


def make_kpis(root: Path, folders: dict[str, str], mask: np.ndarray = BLOB * np.uint8(255)) -> Path:
    for split, folder in folders.items():
        cases = {
            "train": ("56Nx/12_116", "56Nx/12_117", "DN/11-356"),
            "validation": ("DN/11_357",),
            "test": ("normal/8-1",),
        }
        for case in cases[split]:
            for number in (4, 5):
                stem = f"{case.replace('/', '_')}_{number}_4096_0"
                base = root / folder / split / case
                put_jpeg(base / "img" / f"{stem}_img.jpg", np.full((64, 64, 3), 200, np.uint8))
                put_jpeg(base / "mask" / f"{stem}_mask.jpg", mask)
    return root


ALL = {"train": "Task1_patch_level", "validation": "Task1_patch_level", "test": "Task1_patch_level"}


def test_kpis_splits_cases_and_models_are_those_of_the_folders(tmp_path: Path) -> None:
    data = open_dataset("kpis", make_kpis(tmp_path, ALL))
    assert (len(names(data, "train")), len(names(data, "val")), len(names(data, "test"))) == (6, 2, 2)
    assert groups(data, "train") == {"case 12-116", "case 12-117", "case 11-356"}
    assert {item.kind for item in data.items()} == {"56Nx", "DN", "normal"}
    assert names(data, "val")[0] == "validation/DN/11_357/DN_11_357_4_4096_0"
    assert data.problems == ()


def test_kpis_in_the_folders_of_its_archives_is_found_too(tmp_path: Path) -> None:
    folders = {s: f"KPIs24 {s} Data/Task1_patch_level" for s in ALL}
    assert len(names(open_dataset("kpis", make_kpis(tmp_path, folders)))) == 10


def test_kpis_without_a_validation_part_holds_back_whole_cases_and_never_the_test_part(tmp_path: Path) -> None:
    data = open_dataset("kpis", make_kpis(tmp_path, {"train": "a", "test": "b"}))
    assert groups(data, "train").isdisjoint(groups(data, "val"))
    assert all(name.startswith("train/") for name in names(data, "val"))
    assert len(names(data, "val")) in (2, 4)
    assert groups(data, "test") == {"case 8-1"}


def test_kpis_masks_are_exact_though_they_went_through_jpeg(tmp_path: Path) -> None:
    data = open_dataset("kpis", make_kpis(tmp_path, ALL))
    stored = np.asarray(Image.open(data.items()[0].mask))
    assert set(np.unique(stored)) != {0, 255}  # the loss is there
    assert (data.read_mask(data.items()[0]) == BLOB).all()


def test_a_jpeg_of_zeros_and_ones_is_read_as_well_as_it_was_stored(tmp_path: Path) -> None:
    data = open_dataset("kpis", make_kpis(tmp_path, ALL, BLOB))
    assert (data.read_mask(data.items()[0]) == BLOB).mean() > 0.95


def test_an_empty_kpis_mask_is_background_and_a_picture_is_no_mask(tmp_path: Path) -> None:
    data = open_dataset("kpis", make_kpis(tmp_path / "empty", ALL, BLOB * 0))
    assert data.read_mask(data.items()[0]).max() == 0
    noise = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    data = open_dataset("kpis", make_kpis(tmp_path / "noise", ALL, noise))
    with pytest.raises(BadInput, match="picture and no mask"):
        data.read_mask(data.items()[0])


def test_missing_and_lonely_kpis_files_are_counted(tmp_path: Path) -> None:
    root = make_kpis(tmp_path, ALL)
    case = root / "Task1_patch_level" / "train" / "DN" / "11-356"
    sorted((case / "mask").iterdir())[0].unlink()
    sorted((case / "img").iterdir())[1].unlink()
    put_jpeg(root / "Task1_patch_level" / "train" / "odd" / "1" / "img" / "x_img.jpg", np.zeros((8, 8, 3), np.uint8))
    problems = open_dataset("kpis", root).problems
    assert len(problems) == 3
    assert "2 of 10 images have no mask, such as train/DN/11-356" in problems[0]
    assert "1 masks have no image" in problems[1]
    assert "1 folders are no model of KPIs (56Nx, DN, NEP25, normal), such as odd" in problems[2]


def make_crag(root: Path, annotation: str = "Annotation") -> Path:
    for part, stem in (("train", "train"), ("valid", "test")):
        for number in (10, 2):
            put(root / "CRAG" / part / "Images" / f"{stem}_{number}.png")
            put(root / "CRAG" / part / annotation / f"{stem}_{number}.png", 7)
    return root


@pytest.mark.parametrize("annotation", ["Annotation", "Annotations"])
def test_crag_parts_are_those_of_the_folders_and_instances_are_gland(tmp_path: Path, annotation: str) -> None:
    data = open_dataset("crag", make_crag(tmp_path, annotation))
    assert names(data, "train") == ["train_2", "train_10"]
    assert names(data, "val") == ["test_2", "test_10"]
    assert np.unique(data.read_mask(data.items()[0])).tolist() == [0, 1]
    assert len(groups(data, "all")) == 4


def test_a_part_of_crag_says_how_much_of_it(tmp_path: Path) -> None:
    root = make_crag(tmp_path)
    (root / "CRAG" / "train" / "Annotation" / "train_2.png").unlink()
    data = open_dataset("crag", root)
    assert [line.partition(": ")[2] for line in data.problems] == [
        "1 of 4 images have no mask, such as train_2",
        "2 of 173 published train images are here",
        "2 of 40 published valid images are here",
    ]


@pytest.mark.parametrize("name", ["crag", "kpis"])
def test_lists_beside_the_set_decide(tmp_path: Path, name: str) -> None:
    root = make_crag(tmp_path) if name == "crag" else make_kpis(tmp_path, ALL)
    first, second, *_ = names(open_dataset(name, root))
    put_lists(root, [first], [second, "gone"])
    data = open_dataset(name, root)
    assert (names(data, "train"), names(data, "val")) == ([first], [second])
    assert "1 of 3 listed images are missing, such as gone" in data.problems[0]


def test_the_tasks_of_ebhi_have_names_of_their_own(tmp_path: Path) -> None:
    put(tmp_path / "Polyp" / "image" / "GT2001838-1-400-001.png")
    assert open_dataset("ebhi-gland", tmp_path).name == "ebhi-gland"
    assert open_dataset("ebhi-gland", tmp_path).class_names == ("background", "gland")
    with pytest.raises(BadInput, match="holds no image in 1 class folders"):
        open_dataset("ebhi-cancer", tmp_path)


def test_the_help_of_the_commands_names_every_data_set() -> None:
    assert set(re.findall(r"[a-z-]+", HELP.partition(": ")[2])) - {"or"} == set(DATASET_NAMES)
