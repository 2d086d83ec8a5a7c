"""Any folder of images and masks as a data set: names and pairing as in ``files/folders``."""

from __future__ import annotations

from pathlib import Path

from mpamatch.datasets.items import DatasetItem, ListedDataset, keep_listed, read_split_lists, validation_names
from mpamatch.errors import BadInput
from mpamatch.files.folders import scan_folder


def open_folder(
    root: Path,
    *,
    masks: Path | None = None,
    class_names: tuple[str, ...] = ("background", "foreground"),
    foreground: bool = False,
    group_pattern: str | None = None,
) -> ListedDataset:
    """Images below ``root``; an item's name is its relative path.

    ROOT/splits/{train,val}.txt are used where they exist (relative paths or bare names, with or without suffix);
    else a fifth of the groups validates. Raises NotFound for a missing folder, BadInput when it holds no image or the
    lists name none of them.
    """
    scan = scan_folder(root, masks=masks, group_pattern=group_pattern)
    if not scan.items:
        raise BadInput(str(root), "holds no image (PNG, JPEG, TIFF or BMP)", "check the path")
    base = root.resolve()
    lists = read_split_lists(root)
    listed = {name for names in (lists or {}).values() for name in names}
    items = []
    for found in scan.items:
        path = found.image.relative_to(base)
        names = (path.as_posix(), path.with_suffix("").as_posix(), path.name, path.stem)
        items.append(
            DatasetItem(
                next((n for n in names if n in listed), names[0]),
                found.image,
                found.mask,
                found.group,
                path.parent.as_posix(),
            )
        )
    kept, missing = keep_listed(items, lists, root)
    if not kept:
        raise BadInput(str(root), f"none of its {len(items)} images is in splits/", "name them by their relative path")
    return ListedDataset(
        "folder", class_names, foreground, kept, validation_names(kept, lists), scan.problems + missing
    )
