"""Where a command's images and masks come from: a published data set by name, or folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import typer
from numpy.typing import NDArray

from mpamatch.datasets import Dataset, DatasetItem, open_dataset
from mpamatch.datasets.folder import open_folder
from mpamatch.datasets.protocols import ImageLists
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.splits import check_apart
from mpamatch.errors import BadInput

ReadMask = Callable[[DatasetItem], NDArray[np.uint8]]


@dataclass(frozen=True)
class ImageSource:
    """Images to work on, which of them have masks, those for validation (all masked), and how to read masks.

    ``grouped``: the items' groups are patients or cases, and not a guess from folders.
    """

    name: str
    classes: ClassSet
    items: tuple[DatasetItem, ...]
    masked: tuple[DatasetItem, ...]
    validation: tuple[DatasetItem, ...]
    read_mask: ReadMask
    problems: tuple[str, ...] = ()
    grouped: bool = True


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
    """The source that a command's options name; ``split`` is train, val, test or all, and counts for data sets.

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
        grouped=dataset.name != "folder",
    )


def listed_source(source: ImageSource, path: Path) -> tuple[ImageSource, frozenset[str]]:
    """What a document of lists names of a source of all images, and the labelled names.

    Labelled and pool images are worked on, audit images validate; test images are left alone. Raises BadInput for a
    document of another data set, and with counts for names that are not here or have no mask.
    """
    try:
        lists = ImageLists.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (UnicodeDecodeError, ValueError) as error:
        raise BadInput(str(path), "not JSON", "give what `mpamatch lists` wrote") from error
    if lists.dataset != source.name:
        raise BadInput(str(path), f"is of {lists.dataset}, the images are of {source.name}", "give that data set")
    here, masked = {item.name for item in source.items}, {item.name for item in source.masked}
    for names, known, said in (
        ((*lists.labelled, *lists.pool, *lists.audit), here, "are not here"),
        ((*lists.labelled, *lists.audit), masked, "have no mask"),
    ):
        if missing := [name for name in names if name not in known]:
            problem = f"{len(missing)} of {len(names)} images {said}, such as {missing[0]}"
            raise BadInput(str(path), problem, "draw the lists anew from what is here")
    trained = {*lists.labelled, *lists.pool}
    return replace(
        source,
        items=tuple(item for item in source.items if item.name in trained),
        masked=tuple(item for item in source.masked if item.name in trained),
        validation=tuple(item for item in source.masked if item.name in set(lists.audit)),
        grouped=source.grouped and lists.groups_apart,
    ), frozenset(lists.labelled)


def check_source_apart(source: ImageSource) -> None:
    """Refuse a source whose training images share a patient with those that judge, before anything is written.

    Where groups are a guess (a plain folder) or not promised (a published partition by image), only the images
    themselves must differ. Raises BadInput naming the image.
    """

    def named(items: Sequence[DatasetItem]) -> list[tuple[str, str]]:
        return [(item.name, item.group if source.grouped else item.name) for item in items]

    check_apart(named(source.items), named(source.validation))
