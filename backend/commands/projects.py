"""`mpamatch projects`: what projects there are and how far each has come."""

from __future__ import annotations

import json
import shlex
from typing import Annotated

import typer

from backend.actions.first_project import project_url
from backend.api_names import ML_PATH, USER
from backend.commands.opened import JsonOption, ProjectOption, opened, show
from backend.store import images, masks, projects
from backend.store.secrets import KeyRing
from mpamatch.errors import NotFound

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
                "label_type": p.label_type,
                "champion": projects.champion(session, p).version,
                "labelled": len(masks.current(session, p.id)),
                **images.counts(session, p.id),
                "link": project_url(here.settings, p, p.ls_project_id),
            }
            for p in projects.all_of(session)
        ]
    columns = (
        "project",
        "classes",
        "label_type",
        "champion",
        "labelled",
        "train_tiles",
        "audit_tiles",
        "quarantined",
        "link",
    )
    show(rows, columns, as_json=as_json, title="projects")


@app.command("access")
def access(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Where a project's protocol is spoken, with its password: for a server of your own in front of it."""
    with opened() as here, here.database.transaction() as session:
        row = projects.choose(session, project)
        if row.ls_auth_password is None:
            raise NotFound(f"password of {row.key}", "is not made yet", "tie it to a Label Studio: `mpamatch connect`")
        told = {
            "MPAMATCH_PROJECT_URL": f"{here.settings.backend_address}{ML_PATH}/{row.key}",
            "MPAMATCH_PROJECT_USER": USER,
            "MPAMATCH_PROJECT_PASSWORD": KeyRing.at(here.settings.state / "key").open(row.ls_auth_password),
        }
    if as_json:
        print(json.dumps(told))
        return
    for name, value in told.items():
        print(f"export {name}={shlex.quote(value)}")


@app.callback()
def _group() -> None:
    """Keep `list` a word of its own even while it is the only command."""
