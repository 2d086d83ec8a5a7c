"""GlaS / Warwick-QU: one flat folder of colon sections with gland instances; group = patient from Grade.csv.

Source: Sirinukunwattana et al., Medical Image Analysis 35, 2017. The set is for research only and is not part of this
product. The official train/test names do not separate patients, so they are not used as a split.
"""

from __future__ import annotations

import csv
from pathlib import Path

from mpamatch.datasets.items import DatasetItem, ListedDataset, keep_listed, read_split_lists, validation_names
from mpamatch.errors import BadInput, NotFound

CLASS_NAMES = ("background", "gland")
_SUFFIXES = (".png", ".bmp")


def open_glas(root: Path) -> ListedDataset:
    """The images that exist, as .png or .bmp, with their NAME_anno masks (instances: any value above 0 is gland).

    ``root`` is the released folder ("Warwick QU Dataset ...") or the folder that holds it. Validation is
    ROOT/splits/val.txt where it exists, else whole patients. Raises NotFound, or BadInput with counts.
    """
    if not root.is_dir():
        raise NotFound(str(root), "no such folder", "give the folder that holds the Warwick QU data set")
    folder = next((p for p in sorted(root.glob("Warwick QU Dataset*")) if p.is_dir()), root)
    patients, grades = _table(folder / "Grade.csv")
    items = []
    for path in sorted(folder.iterdir(), key=lambda p: (p.stem.partition("_")[0], _number(p.stem), p.stem)):
        if path.suffix.lower() not in _SUFFIXES or path.stem.endswith("_anno"):
            continue
        masks = (path.with_name(f"{path.stem}_anno{suffix}") for suffix in _SUFFIXES)
        mask = next((m for m in masks if m.is_file()), None)
        items.append(DatasetItem(path.stem, path, mask, patients.get(path.stem, path.stem), grades.get(path.stem, "")))
    if not items:
        raise BadInput(str(folder), "holds no GlaS image (.png or .bmp)", "check the path")
    lists = read_split_lists(root)
    kept, problems = keep_listed(items, lists, root)
    return ListedDataset(
        "glas", CLASS_NAMES, True, kept, validation_names(kept, lists), (*problems, *_gaps(folder, kept, patients))
    )


def _table(table: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Image name -> patient, and -> grade; empty without the table. Its columns carry a space after each comma."""
    if not table.is_file():
        return {}, {}
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream, skipinitialspace=True))
    if rows and not {"name", "patient ID"} <= rows[0].keys():
        raise BadInput(str(table), "has no columns 'name' and 'patient ID'", "restore the released table")
    rows = [row for row in rows if row["name"]]
    names = [row["name"].strip() for row in rows]
    patients = [f"patient {row['patient ID'].strip()}" for row in rows]
    grades = [(row.get("grade (GlaS)") or "").strip() for row in rows]
    return dict(zip(names, patients, strict=True)), dict(zip(names, grades, strict=True))


def _number(stem: str) -> int:
    digits = stem.rpartition("_")[2]
    return int(digits) if digits.isdecimal() else 0


def _gaps(folder: Path, items: tuple[DatasetItem, ...], patients: dict[str, str]) -> list[str]:
    gaps = []
    if unmasked := [item.name for item in items if item.mask is None]:
        gaps.append(f"{folder}: {len(unmasked)} of {len(items)} images have no _anno mask, such as {unmasked[0]}")
    if ungrouped := [item.name for item in items if item.name not in patients]:
        gaps.append(
            f"{folder}: {len(ungrouped)} of {len(items)} images have no patient in Grade.csv, such as {ungrouped[0]}"
        )
    return gaps
