"""A folder of images and masks: which mask belongs to which image, and which images belong to one patient or case.

Looks at names alone, opens no image: one bad file is a line in ``problems`` and the rest goes on.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mpamatch.errors import BadInput, NotFound
from mpamatch.files.images import IMAGE_SUFFIXES

MASK_FOLDERS = ("masks", "labels", "label", "annotations")
IMAGE_FOLDERS = ("image", "images", "img", "tiles")
MASK_ENDINGS = ("_mask", "_anno", "_label")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class FolderItem:
    """One image with its mask, if there is one, and the group (patient, case) that it must not be parted from."""

    image: Path
    mask: Path | None
    group: str


@dataclass(frozen=True)
class FolderScan:
    """What a folder holds, in a stable order, and one line for each thing that was left out."""

    items: tuple[FolderItem, ...]
    problems: tuple[str, ...]


def scan_folder(root: Path, *, masks: Path | None = None, group_pattern: str | None = None) -> FolderScan:
    """Every image below ``root`` with its mask and group, folder by folder in the order of their names.

    Mask of an image, first found: in ``masks`` (same relative path, or same stem at its top); in a folder named
    masks, labels, label or annotations beside or in a folder on the image's path (same relative path from there);
    beside the image as NAME_mask, NAME_anno or NAME_label. Folders of those names are not searched for images.

    Group: what ``group_pattern`` (a regular expression on the relative path) finds, its group 1 or the whole match;
    else the path of the folder that holds the image, without a last part such as ``image``; else the image itself.

    Raises NotFound when ``root`` or ``masks`` is no folder, BadInput for a pattern that is none. A link that leaves
    its root, a mask without an image and a name that is no text are problems, not errors.
    """
    pattern = _compiled(group_pattern)
    root = _folder(root)
    mask_root = None if masks is None else _folder(masks)
    items: list[FolderItem] = []
    problems: list[str] = []
    found = list(_image_folders(root, mask_root, problems))
    sharing = Counter(Path(name).stem for _, names in found for name in names)
    for folder, names in found:
        stems = {Path(name).stem for name in names}
        for name in names:
            path = folder / name
            base = _masked_stem(path)
            if base is None:
                mask = _find_mask(path, root, mask_root, sharing[path.stem] == 1, problems)
                if mask is None and mask_root is not None and sharing[path.stem] > 1:
                    problems.append(
                        f"{_shown(path)}: {sharing[path.stem]} images have this name; give its mask the same folders"
                    )
                items.append(FolderItem(path, mask, _group(path.relative_to(root), pattern)))
            elif base not in stems:
                problems.append(f"{_shown(path)}: a mask without an image; rename it if it is an image")
    return FolderScan(tuple(items), tuple(problems))


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise BadInput(f"group pattern {pattern!r}", str(error), "give a regular expression") from error


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise NotFound(str(path), "no such folder", "check the path")
    return path.resolve()


def _image_folders(root: Path, mask_root: Path | None, problems: list[str]) -> Iterator[tuple[Path, list[str]]]:
    """Folders in name order, each with the names of its images and of the masks among them."""

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read ({error.strerror}); check its permissions")

    for place, folders, names in os.walk(root, onerror=unreadable, followlinks=False):
        here = Path(place)
        for name in sorted(folders):
            if (here / name).is_symlink() and not _inside(here / name, root):
                problems.append(f"{_shown(here / name)}: a link that leaves the folder; copy it in")
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name.lower() not in MASK_FOLDERS and here / name != mask_root
        )
        yield here, [name for name in sorted(names) if _is_image_name(here / name, root, problems)]


def _is_image_name(path: Path, root: Path, problems: list[str]) -> bool:
    if path.name.startswith(".") or path.suffix.lower() not in IMAGE_SUFFIXES:
        return False
    if not path.name.isprintable() or any("\ud800" <= c <= "\udfff" for c in path.name):
        problems.append(f"{_shown(path)}: a name that is no plain text; rename it")
        return False
    if path.is_symlink() and not path.exists():
        problems.append(f"{_shown(path)}: a link to nothing; remove it, or restore what it points to")
        return False
    if path.is_symlink() and not _inside(path, root):
        problems.append(f"{_shown(path)}: a link that leaves the folder; copy it in")
        return False
    return True


def _inside(path: Path, root: Path) -> bool:
    try:
        return path.resolve(strict=True).is_relative_to(root)
    except (OSError, RuntimeError):
        return False


def _masked_stem(path: Path) -> str | None:
    """The stem of the image that a file like NAME_mask.png belongs to; None for an image."""
    if path.suffix.lower() not in MASK_SUFFIXES:
        return None
    for ending in MASK_ENDINGS:
        if path.stem.lower().endswith(ending) and len(path.stem) > len(ending):
            return path.stem[: -len(ending)]
    return None


def _find_mask(image: Path, root: Path, mask_root: Path | None, alone: bool, problems: list[str]) -> Path | None:
    for allowed, stem in _mask_stems(image, root, mask_root, alone):
        for suffix in (*MASK_SUFFIXES, *(s.upper() for s in MASK_SUFFIXES)):
            path = stem.with_name(stem.name + suffix)
            if path == image or not path.is_file():
                continue
            if _inside(path, allowed):
                return path
            problems.append(f"{_shown(path)}: a link that leaves the folder; copy it in")
    return None


def _mask_stems(image: Path, root: Path, mask_root: Path | None, alone: bool) -> Iterator[tuple[Path, Path]]:
    """Where a mask may lie: the folder that it must not leave, and its path without suffix. Best first.

    ``alone``: no other image has this name.
    """
    stem = image.with_suffix("")
    if mask_root is not None:
        yield mask_root, mask_root / stem.relative_to(root)
        if not alone:
            return  # several images of that name: a mask at the top could be of any of them
        yield mask_root, mask_root / stem.name
        for ending in MASK_ENDINGS:
            yield mask_root, mask_root / (stem.name + ending)
        return
    for ancestor in [p for p in stem.parents if p.is_relative_to(root)]:
        for name in MASK_FOLDERS:
            yield root, ancestor / name / stem.relative_to(ancestor)
            if ancestor != root:
                yield root, ancestor.parent / name / stem.relative_to(ancestor)
            elif root.name.lower() in IMAGE_FOLDERS:
                # A root such as /data/images: its masks lie beside it, and that folder alone is looked at.
                yield root.parent / name, root.parent / name / stem.relative_to(root)
    for ending in MASK_ENDINGS:
        yield root, stem.with_name(stem.name + ending)


def _group(relative: Path, pattern: re.Pattern[str] | None) -> str:
    if pattern is not None and (found := pattern.search(relative.as_posix())):
        return (found.group(1) if pattern.groups else found.group(0)) or relative.as_posix()
    parts = list(relative.parent.parts)
    if parts and parts[-1].lower() in IMAGE_FOLDERS:
        parts.pop()
    return "/".join(parts) or relative.as_posix()


def _shown(path: Path) -> str:
    text = str(path)
    return text if text.isprintable() else ascii(text)
