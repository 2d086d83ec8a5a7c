"""Where a command's images and masks come from: a published data set by name, or folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from mpamatch.datasets import Dataset, DatasetItem, open_dataset
from mpamatch.datasets.folder import open_folder
from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput

ReadMask = Callable[[DatasetItem], NDArray[np.uint8]]


@dataclass(frozen=True)
class ImageSource:
    """Images to work on, which of them have masks, those for validation (all masked), and how to read masks."""

    name: str
    classes: ClassSet
    items: tuple[DatasetItem, ...]
    masked: tuple[DatasetItem, ...]
    validation: tuple[DatasetItem, ...]
    read_mask: ReadMask
    problems: tuple[str, ...] = ()


def open_source(
    dataset: str | None,
    root: Path | None,
    images: Path | None,
    masks: Path | None,
    class_names: Sequence[str] | None,
    *,
    foreground: bool,
    split: str,
) -> ImageSource:
    """The source that a command's options name; ``split`` is train, val or all, and counts for data sets.

    Folders are taken whole, unless they carry their own ``splits/``. Raises BadInput, NotFound, and a usage error
    when the options name both or neither.
    """
    if (dataset is None) == (images is None):
        raise typer.BadParameter("give either --dataset NAME --root DIR or --images DIR --masks DIR")
    if dataset is not None:
        if root is None:
            raise typer.BadParameter("give the folder of the data set", param_hint="--root")
        found = open_dataset(dataset, root)
        return _source(found, found.class_names, split)
    assert images is not None
    names = tuple(class_names or ("background", "foreground"))
    folder = open_folder(images, masks=masks, class_names=names, foreground=foreground)
    return _source(folder, names, split if (images / "splits").is_dir() else "all")


def _source(dataset: Dataset, names: Sequence[str], split: str) -> ImageSource:
    if split not in ("train", "val", "all"):
        raise BadInput(f"split {split!r}", "unknown", "one of train, val, all")
    items = dataset.items(split)  # type: ignore[arg-type]
    draws = getattr(dataset, "draw", None) is not None  # drawn tissue knows the mask of every item
    masked = [item for item in items if draws or item.mask is not None]
    validation = [item for item in dataset.items("val") if draws or item.mask is not None] if split == "train" else []
    return ImageSource(
        name=dataset.name,
        classes=ClassSet.from_names(names),
        items=tuple(items),
        masked=tuple(masked),
        validation=tuple(validation),
        read_mask=dataset.read_mask,
        problems=dataset.problems,
    )


def choose_labelled(items: Sequence[DatasetItem], count: int | None, seed: int) -> frozenset[str]:
    """Names of ``count`` items (all by default), spread over the folders that the names start with, by ``seed``."""
    if not items or (count is not None and count > len(items)):
        problem = f"{count or 'some'} wanted, {len(items)} images have a mask"
        raise BadInput("labelled images", problem, "ask for fewer, or give --masks")
    if count is None:
        return frozenset(item.name for item in items)
    rng = np.random.default_rng([seed, len(items)])
    strata: dict[str, list[str]] = {}
    for name in sorted(item.name for item in items):
        strata.setdefault(name.rpartition("/")[0], []).append(name)
    for names in strata.values():
        rng.shuffle(names)
    order = [names[i] for i in range(len(items)) for names in strata.values() if i < len(names)]
    return frozenset(order[:count])
