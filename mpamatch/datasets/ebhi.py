"""EBHI-Seg: colorectal biopsies in six class folders, foreground masks; group = case, the seven digits of the name.

Source: Shi et al., Frontiers in Medicine 10:1114673, 2023, doi:10.3389/fmed.2023.1114673, CC BY 4.0. How the tasks
GLAND and CANCER divide the set is an assumption: five gland classes, and adenocarcinoma alone. ``SUBSETS`` is the one
place that says so.
"""

from __future__ import annotations

import re
from pathlib import Path

from mpamatch.datasets.items import DatasetItem, ListedDataset, keep_listed, read_split_lists, validation_names
from mpamatch.errors import BadInput, NotFound

SUBSETS: dict[str, tuple[str, ...]] = {
    "gland": ("High-grade IN", "Low-grade IN", "Normal", "Polyp", "Serrated adenoma"),
    "cancer": ("Adenocarcinoma",),
}
_FOREGROUND = {"gland": "gland", "cancer": "tumour", None: "foreground"}
_CASE = re.compile(r"(?<!\d)(\d{7})(?!\d)")
_FOLDER = "EBHI-SEG"


def open_ebhi(root: Path, *, subset: str | None = None) -> ListedDataset:
    """Images CLASS/image/NAME with masks CLASS/label/NAME; an item's name is its path below EBHI-SEG.

    Two classes whatever the folder: background, and gland (or tumour). ``subset`` is gland, cancer or None for all;
    its lists are ROOT/splits/SUBSET_{train,val}.txt, else what ROOT/splits/{train,val}.txt name of it, else whole cases
    validate. Raises NotFound, or BadInput with counts.
    """
    if subset is not None and subset not in SUBSETS:
        raise BadInput(f"subset {subset!r}", "unknown", f"one of {', '.join(SUBSETS)}")
    if not root.is_dir():
        raise NotFound(str(root), "no such folder", "give the folder that holds EBHI-SEG")
    folder = root / _FOLDER if (root / _FOLDER).is_dir() else root
    wanted = sum(SUBSETS.values(), ()) if subset is None else SUBSETS[subset]
    items = [item for tissue in sorted(wanted) for item in _class_items(folder, tissue)]
    if not items:
        raise BadInput(str(folder), f"holds no image in {len(wanted)} class folders", "check the path")
    lists = _lists(root, subset, wanted)
    kept, problems = keep_listed(items, lists, root)
    unmasked = [item.name for item in kept if item.mask is None]
    if unmasked:
        problems += (f"{folder}: {len(unmasked)} of {len(kept)} images have no mask, such as {unmasked[0]}",)
    names = ("background", _FOREGROUND[subset])
    name = "ebhi" if subset is None else f"ebhi-{subset}"
    return ListedDataset(name, names, True, kept, validation_names(kept, lists), problems)


def _lists(root: Path, subset: str | None, wanted: tuple[str, ...]) -> dict[str, list[str]] | None:
    lists = read_split_lists(root, f"{subset}_") if subset else None
    if lists is None and (whole := read_split_lists(root)) is not None:
        lists = {split: [n for n in names if n.partition("/")[0] in wanted] for split, names in whole.items()}
    return lists


def _class_items(folder: Path, tissue: str) -> list[DatasetItem]:
    images = folder / tissue / "image"
    if not images.is_dir():
        return []
    items = []
    for path in sorted(images.glob("*.png")):
        mask = folder / tissue / "label" / path.name
        case = _CASE.search(path.stem)
        group = f"case {case.group(1)}" if case else path.stem
        items.append(DatasetItem(f"{tissue}/image/{path.name}", path, mask if mask.is_file() else None, group, tissue))
    return items
