"""`mpamatch projects`: what projects there are and how far each has come."""

from __future__ import annotations

from typing import Annotated

import typer

from backend.actions.first_project import project_url
from backend.commands.opened import opened, show
from backend.store import images, masks, projects

app = typer.Typer(help="Projects.", no_args_is_help=True)


@app.command("list")
def list_projects(as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False) -> None:
    """Every project with its champion and counts."""
    with opened() as here, here.database.transaction() as session:
        rows = [
            {
                "project": p.key,
                "title": p.title,
                "classes": ", ".join(projects.classes_of(p).names),
                "champion": projects.champion(session, p).version,
                "labelled": len(masks.current(session, p.id)),
                **images.counts(session, p.id),
                "link": project_url(here.settings, p.ls_project_id),
            }
            for p in projects.all_of(session)
        ]
    columns = ("project", "classes", "champion", "labelled", "train_tiles", "audit_tiles", "quarantined", "link")
    show(rows, columns, as_json=as_json, title="projects")


@app.callback()
def _group() -> None:
    """Keep `list` a word of its own even while it is the only command."""
