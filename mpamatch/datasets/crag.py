"""CRAG: colorectal sections with gland instances, 173 to train and 40 to validate; every image is its own group.

Source: Graham et al., "MILD-Net", Medical Image Analysis 52, 2019, doi:10.1016/j.media.2018.12.001. Which images show
one patient is not published, so images are all that can be kept apart. No file of it is part of this product.
"""

from __future__ import annotations

from pathlib import Path

from mpamatch.datasets.items import (
    DatasetItem,
    ListedDataset,
    keep_listed,
    mask_problems,
    read_split_lists,
    validation_names,
)
from mpamatch.errors import BadInput, NotFound

CLASS_NAMES = ("background", "gland")
COUNTS = {"train": 173, "valid": 40}
_ANNOTATIONS = ("Annotation", "Annotations")


def open_crag(root: Path) -> ListedDataset:
    """Images {train,valid}/Images/NAME.png with instance masks {train,valid}/Annotation/NAME.png.

    ``root`` is the released folder or one that holds it as CRAG; ``test`` and ``Annotations``, as its readme calls
    them, are taken too. ROOT/splits/ lists decide where they exist, else ``valid`` validates; without it a fifth of the
    images does. Raises NotFound, or BadInput with counts.
    """
    if not root.is_dir():
        raise NotFound(str(root), "no such folder", "give the folder that holds train and valid")
    folder = root / "CRAG" if (root / "CRAG").is_dir() else root
    parts = {"train": _items(folder / "train")}
    parts["valid"] = _items(folder / "valid") or _items(folder / "test")
    items = [*parts["train"], *parts["valid"]]
    if not items:
        raise BadInput(str(folder), "holds no CRAG image (train/Images/*.png)", "check the path")
    lists = read_split_lists(root)
    kept, problems = keep_listed(items, lists, root)
    problems += mask_problems(folder, items, (m for name in _ANNOTATIONS for m in folder.glob(f"*/{name}/*.png")))
    problems += tuple(
        f"{folder}: {len(found)} of {COUNTS[part]} published {part} images are here"
        for part, found in parts.items()
        if len(found) != COUNTS[part]
    )
    valid = frozenset(item.name for item in parts["valid"])
    held = valid if lists is None and valid else validation_names(kept, lists)
    return ListedDataset("crag", CLASS_NAMES, True, kept, held, problems)


def _items(folder: Path) -> list[DatasetItem]:
    items = []
    for path in sorted((folder / "Images").glob("*.png"), key=lambda p: (_number(p.stem), p.stem)):
        mask = next((m for name in _ANNOTATIONS if (m := folder / name / path.name).is_file()), None)
        items.append(DatasetItem(path.stem, path, mask, path.stem))
    return items


def _number(stem: str) -> int:
    digits = stem.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0
