"""KPIs 2024: kidney patches of four mouse models of disease, glomeruli against the rest; group = case.

Source: Deng et al., "KPIs 2024 Challenge", arXiv 2502.07288; PAS stain, 2048 x 2048 px, Synapse syn54077668 (an account
and its terms are needed; no file of it is part of this product). Task 1 is published by split as archives that hold
SPLIT/MODEL/CASE/{img,mask}; the masks are JPEG, so their values are not exact.
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

CLASS_NAMES = ("background", "glomerulus")
MODELS = ("56Nx", "DN", "NEP25", "normal")
# The first publication had one folder "data" where there are three splits now.
_SPLITS = ("train", "data", "validation", "test")
_DEPTH = 4
_IMAGE, _MASK = "_img.jpg", ("_mask.jpg", "_img.jpg")


def open_kpis(root: Path) -> ListedDataset:
    """The patches of task 1 below ``root``: SPLIT/MODEL/CASE/img/NAME_img.jpg with mask/NAME_mask.jpg.

    ``root`` is the folder of the splits, or one up to four levels above it (each split may lie in an archive's own
    folder). An item's name is SPLIT/MODEL/CASE/NAME, its group the case, its kind the model. ROOT/splits/ lists
    decide where they exist; else ``validation`` validates and ``test`` is kept apart; without a validation folder
    whole training cases validate. Raises NotFound, or BadInput with counts.
    """
    if not root.is_dir():
        raise NotFound(str(root), "no such folder", "give the folder that holds Task1_patch_level")
    folders = _split_folders(root)
    found = [item for split, folder in folders for item in _items(split, folder)]
    if not found:
        layout = "SPLIT/MODEL/CASE/img/NAME_img.jpg"
        raise BadInput(str(root), f"holds no patch of KPIs ({layout})", "unpack the archives of task 1 there")
    lists = read_split_lists(root)
    kept, problems = keep_listed(found, lists, root)
    problems += mask_problems(root, found, (m for _, folder in folders for m in folder.glob("*/*/mask/*.jpg")))
    if strange := sorted({i.kind for i in kept} - set(MODELS)):
        problems += (
            f"{root}: {len(strange)} folders are no model of KPIs ({', '.join(MODELS)}), such as {strange[0]}",
        )
    held, test = _published(kept) if lists is None else (validation_names(kept, lists), frozenset[str]())
    return ListedDataset("kpis", CLASS_NAMES, True, kept, held, problems, test=test, soft=True)


def _split_folders(root: Path) -> list[tuple[str, Path]]:
    """Folders named as a split that hold MODEL/CASE/img, nearest first; of two of one name the nearest."""
    found: dict[str, Path] = {}
    level = [root]
    for _ in range(_DEPTH + 1):
        for folder in level:
            if folder.name in _SPLITS and folder.name not in found and next(folder.glob("*/*/img"), None):
                found[folder.name] = folder
        level = [child for folder in level for child in sorted(folder.iterdir()) if _may_hold_splits(child)]
    return [(name, found[name]) for name in _SPLITS if name in found]


def _may_hold_splits(folder: Path) -> bool:
    return folder.is_dir() and folder.name not in MODELS and not folder.name.startswith(".")


def _items(split: str, folder: Path) -> list[DatasetItem]:
    items = []
    for path in sorted(folder.glob(f"*/*/img/*{_IMAGE}")):
        case = path.parents[1]
        stem = path.name.removesuffix(_IMAGE)
        masks = (case / "mask" / f"{stem}{ending}" for ending in _MASK)
        mask = next((m for m in masks if m.is_file()), None)
        name = f"{split}/{case.parent.name}/{case.name}/{stem}"
        # Archives write one case as 12_116 and 12-116.
        items.append(DatasetItem(name, path, mask, f"case {case.name.replace('_', '-')}", case.parent.name))
    return items


def _published(items: tuple[DatasetItem, ...]) -> tuple[frozenset[str], frozenset[str]]:
    """The names that validate and those of the test part."""
    by_split = {split: [i for i in items if i.name.startswith(f"{split}/")] for split in _SPLITS}
    test = frozenset(i.name for i in by_split["test"])
    if by_split["validation"]:
        return frozenset(i.name for i in by_split["validation"]), test
    return validation_names((*by_split["train"], *by_split["data"]), None), test
