from __future__ import annotations

from pathlib import Path

import pytest

from mpamatch.errors import BadInput, NotFound
from mpamatch.files.folders import FolderScan, scan_folder


def make(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not read here")
    return root


def pairs(scan: FolderScan, root: Path) -> dict[str, str | None]:
    base = root.resolve()
    return {
        item.image.relative_to(base).as_posix(): item.mask.relative_to(base).as_posix() if item.mask else None
        for item in scan.items
    }


def groups(scan: FolderScan) -> dict[str, str]:
    return {item.image.name: item.group for item in scan.items}


@pytest.mark.parametrize("name", ["masks", "labels", "label", "annotations"])
def test_masks_lie_in_a_folder_beside_or_below_the_images(tmp_path: Path, name: str) -> None:
    make(tmp_path, "images/a.jpg", f"{name}/a.png", "b.tif", f"{name}/b.tiff", "images/c.png")
    expected = {"b.tif": f"{name}/b.tiff", "images/a.jpg": f"{name}/a.png", "images/c.png": None}
    assert pairs(scan_folder(tmp_path), tmp_path) == expected


@pytest.mark.parametrize("ending", ["_mask", "_anno", "_label"])
def test_masks_lie_next_to_their_images(tmp_path: Path, ending: str) -> None:
    make(tmp_path, "a.png", f"a{ending}.png", "b.png")
    assert pairs(scan_folder(tmp_path), tmp_path) == {"a.png": f"a{ending}.png", "b.png": None}


def test_a_class_folder_with_image_and_label_is_a_group(tmp_path: Path) -> None:
    make(tmp_path, "Low-grade IN/image/x.png", "Low-grade IN/label/x.png", "Polyp/image/x.png")
    scan = scan_folder(tmp_path)
    assert pairs(scan, tmp_path) == {
        "Low-grade IN/image/x.png": "Low-grade IN/label/x.png",
        "Polyp/image/x.png": None,
    }
    assert [item.group for item in scan.items] == ["Low-grade IN", "Polyp"]


def test_nested_folders_find_masks_at_the_same_relative_path(tmp_path: Path) -> None:
    make(tmp_path, "images/p1/a.png", "images/p2/a.png", "masks/p1/a.png", "masks/p2/a.png")
    found = {"images/p1/a.png": "masks/p1/a.png", "images/p2/a.png": "masks/p2/a.png"}
    assert pairs(scan_folder(tmp_path), tmp_path) == found


def test_a_given_mask_folder_is_the_only_one_looked_at(tmp_path: Path) -> None:
    make(
        tmp_path,
        "in/a.png",
        "in/a_mask.png",
        "in/sub/b.png",
        "other/a.tif",
        "other/sub/b.png",
        "in/c.png",
        "other/c_anno.png",
    )
    scan = scan_folder(tmp_path / "in", masks=tmp_path / "other")
    assert [item.mask and item.mask.name for item in scan.items] == ["a.tif", "c_anno.png", "b.png"]


def test_a_root_called_images_has_its_masks_beside_it(tmp_path: Path) -> None:
    make(tmp_path, "images/a.png", "masks/a.png")
    assert [item.mask for item in scan_folder(tmp_path / "images").items] == [(tmp_path / "masks/a.png").resolve()]


def test_groups_are_folders_else_the_pattern_else_the_image(tmp_path: Path) -> None:
    make(tmp_path, "p7/a.png", "p7/deep/b.png", "S12-3.png", "odd.png")
    assert groups(scan_folder(tmp_path)) == {
        "a.png": "p7",
        "b.png": "p7/deep",
        "S12-3.png": "S12-3.png",
        "odd.png": "odd.png",
    }
    by_pattern = groups(scan_folder(tmp_path, group_pattern=r"(S\d+)-"))
    assert by_pattern["S12-3.png"] == "S12"
    assert by_pattern["odd.png"] == "odd.png"


def test_the_order_is_that_of_names_whatever_the_disk_says(tmp_path: Path) -> None:
    make(tmp_path, "b/2.png", "b/10.png", "a.png", "B/1.png", "ä.png")
    names = [item.image.relative_to(tmp_path.resolve()).as_posix() for item in scan_folder(tmp_path).items]
    assert names == ["a.png", "ä.png", "B/1.png", "b/10.png", "b/2.png"]


def test_names_with_spaces_quotes_and_other_scripts_are_fine(tmp_path: Path) -> None:
    names = ['it\'s "one".png', "組織 片.PNG", "a,b;c$(x).png", "naïve.jpeg"]
    scan = scan_folder(make(tmp_path, *names))
    assert {item.image.name for item in scan.items} == set(names)
    assert scan.problems == ()


def test_hidden_files_and_other_files_are_passed_over(tmp_path: Path) -> None:
    make(tmp_path, ".DS_Store", "._a.png", ".cache/x.png", "notes.txt", "a.png")
    assert list(pairs(scan_folder(tmp_path), tmp_path)) == ["a.png"]


def test_links_that_leave_the_folder_are_problems_and_the_rest_goes_on(tmp_path: Path) -> None:
    make(tmp_path, "outside/secret.png", "outside/more/x.png", "in/a.png", "in/masks/keep.txt")
    (tmp_path / "in/link.png").symlink_to(tmp_path / "outside/secret.png")
    (tmp_path / "in/folder").symlink_to(tmp_path / "outside/more")
    (tmp_path / "in/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "in/masks/a.png").symlink_to(tmp_path / "outside/secret.png")
    (tmp_path / "in/same.png").symlink_to(tmp_path / "in/a.png")
    scan = scan_folder(tmp_path / "in")
    assert pairs(scan, tmp_path / "in") == {"a.png": None, "same.png": None}
    assert len(scan.problems) == 4
    assert all("link" in line and "\n" not in line for line in scan.problems)


def test_a_mask_without_an_image_is_said_and_not_taken_for_an_image(tmp_path: Path) -> None:
    scan = scan_folder(make(tmp_path, "a_mask.png", "b.png"))
    assert [item.image.name for item in scan.items] == ["b.png"]
    assert len(scan.problems) == 1
    assert "a_mask.png" in scan.problems[0]


def test_a_name_that_is_no_text_is_one_printable_line(tmp_path: Path) -> None:
    make(tmp_path, "two\nlines.png", "b.png")
    scan = scan_folder(tmp_path)
    assert [item.image.name for item in scan.items] == ["b.png"]
    assert scan.problems[0].isprintable()


def test_a_missing_folder_and_a_bad_pattern_are_errors(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        scan_folder(tmp_path / "gone")
    with pytest.raises(NotFound):
        scan_folder(tmp_path, masks=tmp_path / "gone")
    with pytest.raises(BadInput, match="pattern"):
        scan_folder(tmp_path, group_pattern="(")


def test_a_mask_at_the_top_of_the_mask_folder_is_not_given_to_two_images(tmp_path):
    masks = tmp_path / "masks of all"
    masks.mkdir()
    for case in ("p1", "p2"):
        (tmp_path / "images" / case).mkdir(parents=True)
        (tmp_path / "images" / case / "slide.png").write_bytes(b"x")
    (tmp_path / "images" / "p1" / "other.png").write_bytes(b"x")
    (masks / "slide.png").write_bytes(b"x")
    (masks / "other.png").write_bytes(b"x")
    scan = scan_folder(tmp_path / "images", masks=masks)
    assert {i.image.stem: i.mask is None for i in scan.items} == {"slide": True, "other": False}
    assert sum("2 images have this name" in line for line in scan.problems) == 2
