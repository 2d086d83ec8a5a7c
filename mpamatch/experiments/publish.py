"""Take an experiment's results into the docs: ``python -m mpamatch.experiments.publish OUT docs``.

OUT is what an experiment or a simulation wrote. Copies the document to DOCS/results and the picture to DOCS/images,
both under the name of OUT, and puts the tables into DOCS/results.md between ``<!-- NAME -->`` and ``<!-- end -->``.
Without such marks they come at the page's end.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mpamatch.errors import BadInput, MpamatchError
from mpamatch.experiments import tables
from mpamatch.experiments.simulation import results as simulated
from mpamatch.experiments.simulation import tables as simulation_tables

DOCUMENT_NAME, TEXT_NAME, PICTURE_NAME = "results.json", "results.md", "results.png"
_END = "<!-- end -->"


def publish(out: Path, docs: Path) -> None:
    """Copy and write as the module says. Raises BadInput when OUT holds no results or the marks are torn."""
    name = out.resolve().name
    try:
        document = json.loads((out / DOCUMENT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(str(out), f"holds no results ({error})", "run `mpamatch experiment` first") from error
    page = docs / "results.md"
    text = placed(page.read_text(encoding="utf-8"), name, *_written(document, name))
    for folder, file, kind in (("results", DOCUMENT_NAME, "json"), ("images", PICTURE_NAME, "png")):
        if (out / file).is_file():
            (docs / folder).mkdir(exist_ok=True)
            shutil.copyfile(out / file, docs / folder / f"{name}.{kind}")
    page.write_text(text, encoding="utf-8")


def placed(page: str, name: str, content: str, below: str = "") -> str:
    """The page with ``content`` between the marks of ``name``; a section of its own, with ``below`` at its end, where
    there are none."""
    begin = f"<!-- {name} -->"
    before, found, rest = page.partition(begin)
    if not found:
        section = f"{page.rstrip()}\n\n## {name}\n\n{begin}\n{content}\n{_END}\n"
        return f"{section}\n{below}\n" if below else section
    _, ended, after = rest.partition(_END)
    if not ended or "<!-- " in rest.partition(_END)[0]:
        raise BadInput(begin, f"has no {_END}", "mend the page's marks")
    return f"{before}{begin}\n{content}\n{_END}{after}"


def _written(document: Mapping[str, Any], name: str) -> tuple[str, str]:
    """What stands between the marks, and below them in a new section.

    A simulation's picture stands between them: its place on the page is made before it has run.
    """
    if document["experiment"] == simulated.NAME:
        return f"{simulation_tables.block(document)}\n\n![{name}: mean Dice over clicks](images/{name}.png)", ""
    return tables.block(document), f"![{name}: a point for each seed, and differences](images/{name}.png)"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python -m mpamatch.experiments.publish OUT DOCS")
    try:
        publish(Path(sys.argv[1]), Path(sys.argv[2]))
    except MpamatchError as error:
        sys.exit(f"mpamatch: {error}")
