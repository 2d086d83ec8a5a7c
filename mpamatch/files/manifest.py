"""A manifest: a CSV file that names images with their group, scale and split, one row each.

Opens no image. One bad row is a line in ``problems``, named by its line in the file, and the rest goes on.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mpamatch.domain.pyramid import UM_PER_PX_RANGE, plausible_um_per_px
from mpamatch.errors import BadInput, NotFound

COLUMNS = ("path", "group", "um_per_px", "split", "mask")
SPLITS = ("train", "audit")
_LIMIT_BYTES = 64 * 1024**2
_REMEDY_HEADER = f"begin with a line of column names: path, and any of {', '.join(COLUMNS[1:])}"


@dataclass(frozen=True)
class ManifestItem:
    """One image. ``group`` is the image's own path where the row names none; the rest is None where it is empty."""

    image: Path
    group: str
    um_per_px: float | None
    split: str | None
    mask: Path | None
    group_named: bool = True


@dataclass(frozen=True)
class Manifest:
    """The rows that can be used, in the file's order, and one line for each that cannot."""

    items: tuple[ManifestItem, ...]
    problems: tuple[str, ...]


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; relative paths count from its folder.

    Raises NotFound without the file, BadInput where it is no CSV text or its header is not as it should be.
    """
    rows = list(_rows(path))
    if not rows:
        raise BadInput(str(path), "is empty", _REMEDY_HEADER)
    names = [name.strip().lower() for name in rows[0][1]]
    _check_header(path, names)
    items: list[ManifestItem] = []
    problems: list[str] = []
    splits: dict[str, str] = {}
    seen: dict[Path, int] = {}
    for line, values in rows[1:]:
        if not any(value.strip() for value in values):
            continue
        try:
            item = _item(path, line, names, values)
            _check_against(path, line, item, splits, seen)
        except BadInput as error:
            problems.append(str(error))
            continue
        items.append(item)
    return Manifest(tuple(items), tuple(problems))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line on which it ends."""
    try:
        if path.stat().st_size > _LIMIT_BYTES:
            raise BadInput(str(path), "is over 64 MiB", "split it")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, strict=True)
            for row in reader:
                yield reader.line_num, row
    except FileNotFoundError as error:
        raise NotFound(str(path), "no such file", "check the path") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(str(path), f"cannot be read as CSV ({error})", "save it as CSV in UTF-8") from error


def _check_header(path: Path, names: list[str]) -> None:
    unknown = [name for name in names if name not in COLUMNS]
    if "path" not in names:
        raise BadInput(str(path), "has no column `path` in its first line", _REMEDY_HEADER)
    if unknown:
        raise BadInput(str(path), f"has an unknown column {unknown[0]!r}", _REMEDY_HEADER)
    if len(set(names)) != len(names):
        raise BadInput(str(path), "has a column twice", _REMEDY_HEADER)


def _item(manifest: Path, line: int, names: list[str], values: list[str]) -> ManifestItem:
    if len(values) != len(names):
        problem = f"{len(values)} values for {len(names)} columns"
        raise BadInput(f"{manifest} line {line}", problem, "quote values that hold a comma")
    row = {name: value.strip() for name, value in zip(names, values, strict=True)}
    given = row["path"]
    if not given:
        raise BadInput(f"{manifest} line {line}", "no path", "name the image's file")
    if not all(value.isprintable() for value in row.values()):
        raise BadInput(f"{manifest} line {line}", "characters that cannot be printed", "type the row again")
    image = _path(manifest, given)
    if not image.is_file():
        raise BadInput(f"{manifest} line {line}", f"{given} is no file", "paths count from the manifest's folder")
    mask = _path(manifest, row["mask"]) if row.get("mask") else None
    if mask is not None and not mask.is_file():
        raise BadInput(f"{manifest} line {line}", f"mask {row['mask']} is no file", "correct it, or leave it empty")
    return ManifestItem(
        image,
        row.get("group") or given,
        _um_per_px(manifest, line, row),
        _split(manifest, line, row),
        mask,
        group_named=bool(row.get("group") or row.get("split")),
    )


def _path(manifest: Path, given: str) -> Path:
    # Absolute paths stay as they are.
    return (manifest.absolute().parent / given).resolve()


def _um_per_px(manifest: Path, line: int, row: Mapping[str, str]) -> float | None:
    text = row.get("um_per_px")
    if not text:
        return None
    try:
        value = plausible_um_per_px(float(text))
    except ValueError:
        value = None
    if value is None:
        low, high = UM_PER_PX_RANGE
        raise BadInput(f"{manifest} line {line}", f"um_per_px {text!r}", f"give a number from {low} to {high}")
    return value


def _split(manifest: Path, line: int, row: Mapping[str, str]) -> str | None:
    text = (row.get("split") or "").lower()
    if text and text not in SPLITS:
        raise BadInput(f"{manifest} line {line}", f"split {text!r}", "give train, audit, or nothing")
    return text or None


def _check_against(
    manifest: Path, line: int, item: ManifestItem, splits: dict[str, str], seen: dict[Path, int]
) -> None:
    """What a row must not contradict: an earlier row of the same image, or of the same group."""
    if item.image in seen:
        raise BadInput(
            f"{manifest} line {line}", f"{item.image.name} stands on line {seen[item.image]} too", "keep one"
        )
    if item.split is not None and splits.setdefault(item.group, item.split) != item.split:
        problem = f"group {item.group} is {splits[item.group]} on an earlier line"
        raise BadInput(f"{manifest} line {line}", problem, "a group has one split")
    seen[item.image] = line
