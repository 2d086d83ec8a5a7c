"""`mpamatch projects`: what projects there are and how far each has come."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.actions.first_project import project_url
from backend.api_names import ML_PATH, USER
from backend.commands.opened import JsonOption, ProjectOption, opened, show
from backend.store import images, masks, projects
from backend.store.secrets import KeyRing
from mpamatch.domain.recipe import Recipe
from mpamatch.errors import NotFound
from mpamatch.files.prompts import class_texts, own_texts

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


@app.command("prompts")
def prompts(
    file: Annotated[
        Path | None, typer.Argument(help="texts of your own for every class (docs/text.md); without: show what is used")
    ] = None,
    shipped: Annotated[bool, typer.Option("--shipped", help="go back to the texts that come with the product")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say in words what the classes of a project are: runs that open from now on train on these texts."""
    if file is not None and shipped:
        raise typer.BadParameter("give a file or --shipped, not both", param_hint="--shipped")
    with opened() as here, here.database.transaction() as session:
        row = projects.choose(session, project)
        classes, policy = projects.classes_of(row), projects.policy_of(row)
        recipe = Recipe.for_profile(policy.train_profile, policy.train_method)
        before = [one.prompts for one in classes.classes]
        texts = before
        if file is not None:
            texts = list(own_texts(classes.names, recipe.prompts, file))
        elif shipped:
            texts = [()] * classes.count
        if texts != before:
            projects.change_texts(session, row, texts, actor="operator")
        known = class_texts(classes.names, recipe.prompts, dataset=None)
        found: dict[str, Any] = {
            "project": row.key,
            "classes": {n: list(own or one) for n, own, one in zip(classes.names, texts, known, strict=True)},
            "own": any(texts),
            "read": recipe.uses_text_prototypes,
            "written": texts != before,
        }
    if not found["read"]:
        print(f"note: runs train by {recipe.method}, which reads no texts: mpamatch runs rules", file=sys.stderr)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=2))
        return
    print(f"{found['project']}: {'own' if any(texts) else 'shipped'} texts{' (set)' if found['written'] else ''}")
    for name, of_class in found["classes"].items():
        print(f"  {name}: {' | '.join(of_class)}")


@app.callback()
def _group() -> None:
    """Keep `list` a word of its own even while it is the only command."""
