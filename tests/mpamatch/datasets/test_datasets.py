from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mpamatch.datasets import DATASET_NAMES, Dataset, open_dataset
from mpamatch.datasets.ebhi import open_ebhi
from mpamatch.datasets.folder import open_folder
from mpamatch.datasets.glas import open_glas
from mpamatch.errors import BadInput, NotFound
from mpamatch.files.images import encode_png, image_size
from mpamatch.files.rasters import encode_raster


def put(path: Path, value: int | None = None) -> None:
    """A 6 x 4 image, or with ``value`` a mask that holds 0 and that value."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((4, 6), np.uint8)
    mask[:, 3:] = value or 0
    path.write_bytes(encode_png(np.zeros((4, 6, 3), np.uint8)) if value is None else encode_raster(mask))


def put_lists(root: Path, train: list[str], val: list[str], prefix: str = "") -> None:
    (root / "splits").mkdir(parents=True, exist_ok=True)
    (root / "splits" / f"{prefix}train.txt").write_text("\n".join(train))
    (root / "splits" / f"{prefix}val.txt").write_text("\r\n".join(val) + "\r\n")


def groups(dataset: Dataset, split: str) -> set[str]:
    return {item.group for item in dataset.items(split)}  # type: ignore[arg-type]


def names(dataset: Dataset, split: str = "all") -> list[str]:
    return [item.name for item in dataset.items(split)]  # type: ignore[arg-type]


def make_glas(root: Path, suffix: str = ".png") -> Path:
    folder = root / "Warwick QU Dataset (Released 2016_07_08)"
    rows = ["name,patient ID, grade (GlaS), grade (Sirinukunwattana et al. 2015)"]
    for name, patient in (("train_2", 4), ("train_10", 4), ("testA_1", 6), ("testA_3", 8)):
        put(folder / f"{name}{suffix}")
        put(folder / f"{name}_anno{suffix}", 5)
        rows.append(f"{name},{patient}, benign, healthy")
    (folder / "Grade.csv").write_bytes("\r\n".join(rows).encode())
    return root


def make_ebhi(root: Path) -> Path:
    for name in (
        "Polyp/image/GT2001838-1-400-001",
        "Normal/image/GTXC2012525-1-400-001",
        "Adenocarcinoma/image/GTxc2013084-2-400-003",
    ):
        put(root / "EBHI-SEG" / f"{name}.png")
        put(root / "EBHI-SEG" / f"{name.replace('/image/', '/label/')}.png", 1)
    return root


def test_glas_groups_by_patient_and_never_parts_one(tmp_path: Path) -> None:
    dataset = open_glas(make_glas(tmp_path))
    assert names(dataset) == ["testA_1", "testA_3", "train_2", "train_10"]
    assert groups(dataset, "all") == {"patient 4", "patient 6", "patient 8"}
    assert groups(dataset, "train").isdisjoint(groups(dataset, "val"))
    assert names(dataset, "val")
    assert sorted(names(dataset, "train") + names(dataset, "val")) == sorted(names(dataset))
    assert dataset.problems == ()


def test_glas_instances_are_read_as_gland(tmp_path: Path) -> None:
    dataset = open_glas(make_glas(tmp_path))
    assert dataset.class_names == ("background", "gland")
    assert dataset.foreground
    assert np.unique(dataset.read_mask(dataset.items()[0])).tolist() == [0, 1]


def test_glas_as_released_in_bmp_and_without_its_table_still_opens(tmp_path: Path) -> None:
    root = make_glas(tmp_path, ".bmp")
    (root / "Warwick QU Dataset (Released 2016_07_08)" / "Grade.csv").unlink()
    dataset = open_glas(root)
    assert len(dataset.items()) == 4
    assert len(dataset.problems) == 1
    assert dataset.problems[0].endswith("4 of 4 images have no patient in Grade.csv, such as testA_1")


def test_published_lists_decide_and_what_they_name_in_vain_is_one_line_with_counts(tmp_path: Path) -> None:
    root = make_glas(tmp_path)
    put_lists(root, ["train_10", "train_77"], ["testA_1"])
    dataset = open_glas(root)
    assert (names(dataset, "train"), names(dataset, "val")) == (["train_10"], ["testA_1"])
    assert dataset.problems == (f"{root}: 1 of 3 listed images are missing, such as train_77",)


def test_half_a_pair_of_lists_and_a_name_in_both_are_errors(tmp_path: Path) -> None:
    root = make_glas(tmp_path)
    put_lists(root, ["train_2"], ["train_2"])
    with pytest.raises(BadInput, match="1 names in train and val"):
        open_glas(root)
    (root / "splits" / "val.txt").unlink()
    with pytest.raises(BadInput, match="counterpart"):
        open_glas(root)


def test_ebhi_groups_by_case_whatever_the_prefix(tmp_path: Path) -> None:
    dataset = open_ebhi(make_ebhi(tmp_path))
    assert groups(dataset, "all") == {"case 2001838", "case 2012525", "case 2013084"}
    assert dataset.read_mask(dataset.items()[0]).tolist()[0] == [0, 0, 0, 1, 1, 1]


def test_ebhi_tasks_take_their_class_folders_and_their_part_of_the_lists(tmp_path: Path) -> None:
    root = make_ebhi(tmp_path)
    polyp, normal, cancer = (
        "Polyp/image/GT2001838-1-400-001.png",
        "Normal/image/GTXC2012525-1-400-001.png",
        "Adenocarcinoma/image/GTxc2013084-2-400-003.png",
    )
    put_lists(root, [polyp, cancer], [normal])
    gland = open_ebhi(root, subset="gland")
    assert (names(gland, "train"), names(gland, "val")) == ([polyp], [normal])
    assert names(open_ebhi(root, subset="cancer")) == [cancer]
    put_lists(root, [normal], [polyp], prefix="gland_")
    assert names(open_ebhi(root, subset="gland"), "train") == [normal]
    with pytest.raises(BadInput, match="one of gland, cancer"):
        open_ebhi(root, subset="glands")


def test_ebhi_without_masks_says_how_many(tmp_path: Path) -> None:
    root = make_ebhi(tmp_path)
    next((root / "EBHI-SEG" / "Polyp" / "label").iterdir()).unlink()
    dataset = open_ebhi(root)
    assert dataset.problems[0].startswith(f"{root / 'EBHI-SEG'}: 1 of 3 images have no mask")
    unmasked = next(item for item in dataset.items() if item.mask is None)
    with pytest.raises(NotFound):
        dataset.read_mask(unmasked)


def test_a_folder_uses_its_lists_with_or_without_suffix(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path / "images" / f"{name}.png")
        put(tmp_path / "masks" / f"{name}.png", 1)
    assert len(open_folder(tmp_path).items()) == 3
    put_lists(tmp_path, ["images/a.png", "b"], ["images/c"])
    dataset = open_folder(tmp_path)
    assert [item.image.name for item in dataset.items("train")] == ["a.png", "b.png"]
    assert [item.image.name for item in dataset.items("val")] == ["c.png"]
    put_lists(tmp_path, ["x"], ["y"])
    with pytest.raises(BadInput, match="none of its 3 images"):
        open_folder(tmp_path)


@pytest.mark.parametrize("name", ["folder", "glas", "ebhi", "ebhi-cancer", "crag", "kpis"])
def test_empty_and_missing_folders_are_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput) as caught:
        open_dataset(name, tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(NotFound):
        open_dataset(name, tmp_path / "gone")


def test_unknown_names_subsets_and_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=", ".join(DATASET_NAMES)):
        open_dataset("glass", tmp_path)
    with pytest.raises(BadInput, match="no subsets"):
        open_dataset("glas", tmp_path, subset="gland")
    with pytest.raises(BadInput, match="one of train, val, test, all"):
        open_glas(make_glas(tmp_path)).items("valid")  # type: ignore[arg-type]


Counts = tuple[int, int, int]


@pytest.mark.shared
@pytest.mark.parametrize(
    ("open_it", "counts"),
    [
        (lambda data: open_dataset("glas", data / "glas"), (34, 9, 10)),
        (lambda data: open_dataset("ebhi", data / "ebhi"), (163, 49, 53)),
        (lambda data: open_dataset("ebhi", data / "ebhi", subset="gland"), (120, 39, 38)),
        (lambda data: open_dataset("ebhi-cancer", data / "ebhi"), (43, 10, 17)),
    ],
)
def test_published_data_has_the_published_counts(
    shared_dir: Path, open_it: Callable[[Path], Dataset], counts: Counts
) -> None:
    dataset = open_it(shared_dir / "data")
    train, val = dataset.items("train"), dataset.items("val")
    assert (len(train), len(val), len(groups(dataset, "all"))) == counts
    assert groups(dataset, "train").isdisjoint(groups(dataset, "val"))
    assert dataset.problems == ()
    for item in (train[0], val[-1]):
        width, height = image_size(item.image)
        mask = dataset.read_mask(item)
        assert mask.shape == (height, width)
        assert set(np.unique(mask)) <= {0, 1}


@pytest.mark.shared
def test_published_class_folders_are_groups_for_a_plain_folder_too(shared_dir: Path) -> None:
    dataset = open_folder(shared_dir / "data" / "ebhi" / "EBHI-SEG", foreground=True)
    assert len(dataset.items()) == 212
    assert all(item.mask is not None for item in dataset.items())
    assert "Low-grade IN" in groups(dataset, "all")
