"""`mpamatch register`: take images (a folder, a manifest, one file; masks beside them) into a project."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from backend.actions import first_project
from backend.actions.register_source import title_of
from backend.commands.opened import Opened, opened, progress_bar
from backend.commands.options import ForegroundOption, LabelTypeOption, StartOption, TilePxOption, UmPerPxOption
from backend.store import projects
from backend.store.tables import Project
from mpamatch.errors import NotFound


def register(
    source: Annotated[
        Path, typer.Argument(help="folder of PNG, JPEG, TIFF or SVS images, a manifest (CSV), or one image")
    ],
    classes: Annotated[str, typer.Option(help="class names of a new project, background first")] = "",
    project: Annotated[
        str | None, typer.Option(help="key or title of the project; a new one is made with --classes")
    ] = None,
    masks: Annotated[Path | None, typer.Option(help="folder of masks with the images' names")] = None,
    group_pattern: Annotated[
        str | None, typer.Option(help="regular expression that finds the patient or case in a path")
    ] = None,
    foreground: ForegroundOption = False,
    label_type: LabelTypeOption = None,
    start: StartOption = "auto",
    tile_px: TilePxOption = None,
    um_per_px: UmPerPxOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """Register images; one bad item is reported and the rest goes on. Registering again adds what is new."""
    tiles = first_project.TileWish(tile_px, um_per_px)
    with opened() as here:
        names = tuple(name.strip() for name in classes.split(",") if name.strip())
        if names:
            title = project or title_of(source)
            row = first_project.ensure_row(
                here.database, here.settings, title, names, label_type=label_type, start=start, tiles=tiles
            )
        else:
            row = _known(here, project)
            first_project.check_label_type(row, label_type)
            first_project.check_start(row, start)
            first_project.check_tiles(row, tiles)
        with progress_bar("registering") as bar:
            report = first_project.register_folder(
                here.database,
                here.blobs,
                row,
                source,
                masks=masks,
                group_pattern=group_pattern,
                foreground=foreground,
                progress=bar,
            )
        if report.images + report.known == 0:
            raise NotFound(
                str(source), report.problems[0] if report.problems else "holds no image", "name another source"
            )
        first_project.connect_all(here.settings, here.database)
        here.wakeups.sync(row.id, full=True)
        here.wakeups.predict()
    if as_json:
        print(json.dumps({"project": row.key, **vars(report)}))
        return
    for line in (*report.notes, *report.problems):
        print(line, file=sys.stderr)
    print(
        f"{row.key}: {report.images} new images ({report.known} known), {report.tiles} tiles, {report.masks} masks,"
        f" {len(report.problems)} problems"
    )


def _known(here: Opened, project: str | None) -> Project:
    """The project of that key or title, or the only one. Raises NotFound or BadInput."""
    with here.database.transaction() as session:
        if project is not None and not projects.has(session, projects.slug(project)):
            raise NotFound(
                f"project {projects.slug(project)!r}",
                "does not exist, and no classes are given to make it",
                "give --classes background,gland, or the --project that you mean: mpamatch projects list",
            )
        return projects.choose(session, None if project is None else projects.slug(project))
