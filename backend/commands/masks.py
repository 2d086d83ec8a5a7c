"""`mpamatch masks`: labels out to files that other programs read, and in from them."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from backend.actions.export_masks import export_masks
from backend.actions.import_masks import files_of, import_masks
from backend.commands.opened import JsonOption, ProjectOption, opened, progress_bar
from backend.commands.options import ForegroundOption
from backend.store import projects
from backend.store.masked_images import ORIGINS
from mpamatch.errors import NotFound

app = typer.Typer(help="Masks as files: out for other programs, and in from them.", no_args_is_help=True)


class Form(StrEnum):
    """What a mask is written as."""

    png = "png"
    coco = "coco"
    geojson = "geojson"


class Origin(StrEnum):
    """Where a mask comes from."""

    imported = "imported"
    annotated = "annotated"
    confirmed = "confirmed"


@app.command("export")
def export(
    out: Annotated[Path, typer.Argument(help="folder to write into; files of the same names are replaced")],
    form: Annotated[Form, typer.Option("--format", help="indexed PNG, one COCO file, or GeoJSON per image")] = Form.png,
    origin: Annotated[
        list[Origin] | None, typer.Option(help="only masks of this origin; may be given several times")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="one PNG per image instead of one per tile")] = False,
    pictures: Annotated[bool, typer.Option("--pictures", help="the tiles' pictures too (PNG and COCO)")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the masks that count. What nobody reviewed stays apart from background in every format."""
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, project)
        with progress_bar("exporting") as bar:
            report = export_masks(
                here.database,
                here.blobs,
                row.id,
                out,
                form=form.value,
                origins=[o.value for o in origin] if origin else ORIGINS,
                whole=whole,
                pictures=pictures,
                progress=bar,
            )
    if as_json:
        print(json.dumps({"project": row.key, "out": str(out), **vars(report)}))
        return
    for line in report.problems:
        print(line, file=sys.stderr)
    print(f"{row.key}: {report.masks} masks of {report.images} images in {len(report.files)} files under {out}")


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help="PNG or GeoJSON files named as their images, or folders of them")],
    foreground: ForegroundOption = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take masks in as new versions; one bad file is reported and the rest goes on."""
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, project)
        files = files_of(paths)
        if not files:
            raise NotFound(str(paths[0]), "holds no PNG or GeoJSON file", "name files, or another folder")
        with progress_bar("importing") as bar:
            report = import_masks(here.database, here.blobs, row.id, files, foreground=foreground, progress=bar)
        if report.masks:
            here.wakeups.sync(row.id, full=True)
    if as_json:
        print(json.dumps({"project": row.key, **vars(report)}))
        return
    for line in (*report.notes, *report.problems):
        print(line, file=sys.stderr)
    print(
        f"{row.key}: {report.masks} masks came in, {report.unchanged} are as they were, {len(report.problems)} problems"
    )
