"""`mpamatch runs`: past and present trainings, starting one, stopping one."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import select

from backend.actions.open_run import facts_of, request_run
from backend.clock import utc_now
from backend.commands.opened import JsonOption, ProjectOption, opened, show
from backend.store import models, projects, runs
from backend.store.tables import Run
from mpamatch.domain.schedule import decide
from mpamatch.errors import Conflict

app = typer.Typer(help="Trainings.", no_args_is_help=True)


@app.command("list")
def list_runs(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Every run, the newest first."""
    with opened() as here, here.database.transaction() as session:
        row = projects.choose(session, project)
        found = session.scalars(select(Run).where(Run.project_id == row.id).order_by(Run.id.desc())).all()
        rows = [_brief(run) for run in found]
    show(
        rows, ("run", "state", "trigger", "version", "step", "steps", "eta_s", "problem"), as_json=as_json, title="runs"
    )


@app.command("show")
def show_run(
    number: Annotated[int | None, typer.Argument(help="number of the run; unset: the latest")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """One run: why it began, loss per term, pool tiles used, share of confident pixels, steps, time left, verdict."""
    with opened() as here, here.database.transaction() as session:
        row = projects.choose(session, project)
        run = runs.latest(session, row.id) if number is None else runs.by_number(session, row.id, number)
        if run is None:
            raise Conflict("runs", "there is none yet", "label some tiles, or `mpamatch runs start`")
        model = models.candidate_of(session, run.id)
        found = {**_brief(run), **_figures(run), "verdict": None if model is None else model.verdict}
    if as_json:
        print(json.dumps(found, indent=2, default=str))
        return
    table = Table(title=f"run {run.number}", title_justify="left", show_header=False)
    for name, value in found.items():
        table.add_row(name.replace("_", " "), "" if value is None else _words(value))
    Console().print(table)


@app.command("start")
def start_run(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Ask for a run now; while one is open the request waits for its end."""
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, project)
            request_run(session, row, by="manual")
            decision = decide(utc_now(), facts_of(session, row), projects.policy_of(row).trigger)
        here.wakeups.sync(row.id)
    found = {"project": row.key, "starts": decision.start, "reasons": list(decision.reasons)}
    print(
        json.dumps(found)
        if as_json
        else f"{row.key}: {'starting' if decision.start else 'waiting'}: {'; '.join(decision.reasons)}"
    )


@app.command("cancel")
def cancel_run(
    number: Annotated[int | None, typer.Argument(help="number of the run; unset: the open one")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a run; the champion stays as it is."""
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, project)
            run = runs.open_run(session, row.id) if number is None else runs.by_number(session, row.id, number)
            if run is None or run.state not in runs.OPEN:
                raise Conflict("run", "is not open", "see `mpamatch runs list`")
            run.cancel_requested = True
            if run.state in ("queued", "judging"):
                runs.move(session, run, "cancelled", actor="operator", finished_at=utc_now())
            number, state = run.number, run.state
        here.wakeups.train()
    print(json.dumps({"run": number, "state": state}) if as_json else f"run {number}: {state}, stopping")


def _brief(run: Run) -> dict[str, Any]:
    progress = run.progress or {}
    return {
        "run": run.number,
        "state": run.state,
        "trigger": run.trigger,
        "version": run.version,
        "step": progress.get("step"),
        "steps": progress.get("steps"),
        "eta_s": progress.get("eta_s") if run.state == "training" else None,
        "problem": run.problem,
    }


def _figures(run: Run) -> dict[str, Any]:
    progress, metrics = run.progress or {}, run.metrics or {}
    return {
        "reasons": run.reasons,
        "losses": progress.get("losses"),
        "mask_ratio": metrics.get("mask_ratio", progress.get("mask_ratio")),
        "pool_tiles": metrics.get("pool_tiles", progress.get("pool_tiles")),
        "seconds": metrics.get("seconds"),
        "attempt": run.attempt,
        "recipe": run.recipe.get("method"),
        "recipe_hash": run.recipe_hash,
        "created_at": run.created_at,
        "finished_at": run.finished_at,
    }


def _words(value: Any) -> str:
    if isinstance(value, list):
        return "; ".join(str(v) for v in value)
    return json.dumps(value, default=str) if isinstance(value, dict) else str(value)
