"""`mpamatch register`: take a folder of images (and masks beside them) into a project."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from backend.actions import first_project
from backend.commands.opened import opened, progress_bar
from backend.store import projects
from mpamatch.errors import NotFound


def register(
    folder: Annotated[Path, typer.Argument(help="folder of PNG, JPEG or TIFF images")],
    classes: Annotated[str, typer.Option(help="class names of a new project, background first")] = "",
    project: Annotated[
        str | None, typer.Option(help="key or title of the project; a new one is made with --classes")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="folder of masks with the images' names")] = None,
    group_pattern: Annotated[
        str | None, typer.Option(help="regular expression that finds the patient or case in a path")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Register images; one bad item is reported and the rest goes on. Registering again adds what is new."""
    with opened() as here:
        names = tuple(name.strip() for name in classes.split(",") if name.strip())
        if names:
            row = first_project.ensure_row(here.database, here.settings, project or folder.resolve().name, names)
        else:
            with here.database.transaction() as session:
                row = projects.choose(session, None if project is None else projects.slug(project))
        with progress_bar("registering") as bar:
            report = first_project.register_folder(
                here.database, here.blobs, row, folder, masks=masks, group_pattern=group_pattern, progress=bar
            )
        if report.images + report.known == 0:
            raise NotFound(
                str(folder), report.problems[0] if report.problems else "holds no image", "name another folder"
            )
        first_project.connect_all(here.settings, here.database)
        here.wakeups.sync(row.id, full=True)
        here.wakeups.predict()
    if as_json:
        print(json.dumps({"project": row.key, **vars(report)}))
        return
    for problem in report.problems:
        print(problem, file=sys.stderr)
    print(
        f"{row.key}: {report.images} new images ({report.known} known), {report.tiles} tiles, {report.masks} masks,"
        f" {len(report.problems)} problems"
    )
