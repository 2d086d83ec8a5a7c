"""What every data set answers: items by split, masks as class ids. Knows no layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from mpamatch.domain.splits import assign_splits
from mpamatch.errors import BadInput, NotFound
from mpamatch.files.masks import read_mask, read_soft_mask

PublishedSplit = Literal["train", "val", "test", "all"]
SPLITS: tuple[str, ...] = ("train", "val", "test", "all")


@dataclass(frozen=True)
class DatasetItem:
    """One image of a data set. ``mask`` is None where nothing was labelled; ``group`` is the patient or case.

    ``kind`` is what a small labelled set should hold some of each: a tissue, a grade, a disease model; "" where the
    data set knows none.
    """

    name: str
    image: Path
    mask: Path | None
    group: str
    kind: str = ""


class Dataset(Protocol):
    """A published or local set of images with masks."""

    @property
    def name(self) -> str: ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id; the first is background."""

    @property
    def foreground(self) -> bool:
        """Whether mask files hold instances or 0/255, so that any value above 0 is class 1."""

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each thing that was left out."""

    def items(self, split: PublishedSplit = "all") -> list[DatasetItem]:
        """The items of a split, in a stable order; none for ``test`` where the data set has no such part."""

    def read_mask(self, item: DatasetItem) -> npt.NDArray[np.uint8]:
        """Class ids, uint8 (H, W), 255 = no supervision. Raises BadInput; NotFound for an item without mask."""


@dataclass(frozen=True)
class ListedDataset:
    """A data set whose items and validation names are known when it is opened.

    ``draw`` makes the mask of an item that has no mask file, for data sets that can (drawn tissue). ``test`` are names
    that neither train nor validate. ``soft`` mask files went through JPEG: they are cut at half of their top value.
    """

    name: str
    class_names: tuple[str, ...]
    foreground: bool
    listing: tuple[DatasetItem, ...]
    validation: frozenset[str]
    problems: tuple[str, ...] = ()
    draw: Callable[[DatasetItem], npt.NDArray[np.uint8]] | None = field(default=None, compare=False)
    test: frozenset[str] = frozenset()
    soft: bool = False

    def items(self, split: PublishedSplit = "all") -> list[DatasetItem]:
        if split not in SPLITS:
            raise BadInput(f"split {split!r}", "unknown", f"one of {', '.join(SPLITS)}")
        return [item for item in self.listing if split in ("all", self._split_of(item.name))]

    def _split_of(self, name: str) -> str:
        return "val" if name in self.validation else "test" if name in self.test else "train"

    def read_mask(self, item: DatasetItem) -> npt.NDArray[np.uint8]:
        if item.mask is not None and self.soft:
            return read_soft_mask(item.mask)
        if item.mask is not None:
            return read_mask(item.mask, class_count=len(self.class_names), foreground=self.foreground)
        if self.draw is not None:
            return self.draw(item)
        raise NotFound(item.name, f"{self.name} holds no mask of it", "take an item that has one")


def read_split_lists(root: Path, prefix: str = "") -> dict[str, list[str]] | None:
    """The names in ROOT/splits/{prefix}{train,val}.txt, by split; None when neither file is there.

    Raises BadInput when only one of the two is there, or a name is in both.
    """
    paths = {split: root / "splits" / f"{prefix}{split}.txt" for split in ("train", "val")}
    there = [path for path in paths.values() if path.is_file()]
    if not there:
        return None
    if len(there) == 1:
        raise BadInput(str(there[0]), "has no counterpart", "give both train and val lists, or neither")
    lists = {split: path.read_text("utf-8").split("\n") for split, path in paths.items()}
    named = {split: [line.strip() for line in lines if line.strip()] for split, lines in lists.items()}
    if both := set(named["train"]) & set(named["val"]):
        raise BadInput(str(there[0].parent), f"{len(both)} names in train and val", f"such as {min(both)}")
    return named


def mask_problems(source: Path, items: Sequence[DatasetItem], masks: Iterable[Path]) -> tuple[str, ...]:
    """One line with counts for images without a mask, and one for ``masks`` that belong to no image."""
    problems = []
    if unmasked := [item.name for item in items if item.mask is None]:
        problems.append(f"{source}: {len(unmasked)} of {len(items)} images have no mask, such as {unmasked[0]}")
    used = {item.mask for item in items}
    if lonely := [path for path in sorted(masks) if path not in used]:
        problems.append(f"{source}: {len(lonely)} masks have no image, such as {lonely[0].relative_to(source)}")
    return tuple(problems)


def validation_names(items: Iterable[DatasetItem], lists: Mapping[str, Sequence[str]] | None) -> frozenset[str]:
    """The names of the validation items: as published, else a fifth of the groups, never part of one."""
    if lists is not None:
        return frozenset(lists["val"])
    found = list(items)
    splits = assign_splits({}, (item.group for item in found))
    return frozenset(item.name for item in found if splits[item.group] == "audit")


def keep_listed(
    items: Sequence[DatasetItem], lists: Mapping[str, Sequence[str]] | None, source: Path
) -> tuple[tuple[DatasetItem, ...], tuple[str, ...]]:
    """The items that the lists name (all without lists), and one line with counts for what they name in vain."""
    if lists is None:
        return tuple(items), ()
    by_name = {item.name: item for item in items}
    wanted = [name for split in ("train", "val") for name in lists[split]]
    missing = [name for name in wanted if name not in by_name]
    if not missing:
        return tuple(by_name[name] for name in wanted), ()
    line = f"{source}: {len(missing)} of {len(wanted)} listed images are missing, such as {missing[0]}"
    return tuple(by_name[name] for name in wanted if name in by_name), (line,)
