"""`mpamatch models`: versions, verdicts, and going back."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from backend.actions.change_champion import promote, rollback
from backend.clock import utc_now
from backend.commands.opened import JsonOption, ProjectOption, opened, show
from backend.store import models, projects
from backend.store.tables import Model

app = typer.Typer(help="Models.", no_args_is_help=True)


@app.command("list")
def list_models(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Every version with its state and what the gate said."""
    with opened() as here, here.database.transaction() as session:
        rows = [_brief(m) for m in models.all_of(session, projects.choose(session, project).id)]
    columns = ("version", "state", "provisional", "audit_dice", "champion_dice", "verdict")
    show(rows, columns, as_json=as_json, title="models")


@app.command("show")
def show_model(version: str, project: ProjectOption = None) -> None:
    """One version whole, as JSON: metrics, verdict with figures and reasons."""
    with opened() as here, here.database.transaction() as session:
        model = models.by_version(session, projects.choose(session, project).id, version)
        found = {**_brief(model), "metrics": model.metrics, "full_verdict": model.verdict, "blob": model.blob}
    print(json.dumps(found, indent=2, default=str))


@app.command("rollback")
def roll_back(
    to: Annotated[str | None, typer.Option(help="version to return to; unset: the champion before this one")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let an earlier champion serve again; predictions still stored make it instant."""
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, project)
            model = rollback(session, row, to_version=to, actor="operator", now=utc_now())
        _follow(here, row.id)
    print(json.dumps({"champion": model.version}) if as_json else f"champion: {model.version}")


@app.command("promote")
def promote_model(version: str, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Let a candidate or an earlier champion serve, by hand; it is marked provisional."""
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, project)
            model = models.by_version(session, row.id, version)
            promote(session, row, model, actor="operator", now=utc_now(), provisional=True, why="by hand")
        _follow(here, row.id)
    print(json.dumps({"champion": model.version}) if as_json else f"champion: {model.version}")


def _follow(here: Any, project_id: int) -> None:
    here.wakeups.predict()
    here.wakeups.sync(project_id, full=True)


def _brief(model: Model) -> dict[str, Any]:
    verdict = model.verdict or {}
    figures = verdict.get("figures") or {}
    return {
        "version": model.version,
        "kind": model.kind,
        "state": model.state,
        "provisional": model.provisional,
        "audit_dice": figures.get("candidate_dice"),
        "champion_dice": figures.get("champion_dice"),
        "verdict": "; ".join(verdict.get("reasons", [])) or None,
        "created_at": model.created_at,
    }
