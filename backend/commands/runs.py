"""`mpamatch runs`: past and present trainings, starting one, looking on, stopping one, and when they start."""

from __future__ import annotations

import json
import sys
import time
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.actions.cancel_run import cancel_run
from backend.actions.open_run import facts_of, request_adaptation, request_run, rules_of
from backend.clock import utc_now
from backend.commands.opened import JsonOption, Opened, ProjectOption, opened, show
from backend.commands.printed import print_table
from backend.commands.run_follow import follow, left_alone, look, next_run
from backend.commands.run_logs import Line, RunLog, as_rows, follow_log, last_lines
from backend.commands.run_schedule import rules, schedule
from backend.commands.run_table import run_rows
from backend.store import models, projects, runs
from backend.store.tables import Run
from mpamatch.domain.schedule import decide
from mpamatch.errors import Conflict

# A worker looks twice a second; this long is waited for one that is slow to end.
CANCEL_WAIT_S = 20.0
FollowOption = Annotated[bool, typer.Option("--follow", help="look on until it has ended; Ctrl-C leaves it going")]

app = typer.Typer(help="Trainings.", no_args_is_help=True)
app.command("schedule")(schedule)
app.command("rules")(rules)


@app.command("list")
def list_runs(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Every run, the newest first."""
    with opened() as here, here.database.transaction() as session:
        row = projects.choose(session, project)
        found = session.scalars(select(Run).where(Run.project_id == row.id).order_by(Run.id.desc())).all()
        rows = [_brief(run) for run in found]
    columns = ("run", "state", "trigger", "learns", "version", "step", "steps", "eta_s", "problem")
    show(rows, columns, as_json=as_json, title="runs")


@app.command("show")
def show_run(
    number: Annotated[int | None, typer.Argument(help="number of the run; unset: the latest")] = None,
    follow_it: FollowOption = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """One run: why it began, loss per term, pool tiles used, share of confident pixels, steps, time left, verdict."""
    with opened() as here:
        with here.database.transaction() as session:
            run_id = _chosen(session, projects.choose(session, project).id, number).id
        if follow_it:
            follow(here, run_id, to_stderr=as_json)
            if not as_json:
                return
        found = _found(here, run_id)
    if as_json:
        print(json.dumps(found, indent=2, default=str))
        return
    table = Table(title=f"run {found['run']}", title_justify="left", show_header=False)
    for name, words in run_rows(found):
        table.add_row(name, escape(words))
    print_table(table)


@app.command("start")
def start_run(
    adapt: Annotated[
        bool, typer.Option("--adapt", help="adapt the champion's norms to the pool, learn no label")
    ] = False,
    follow_it: FollowOption = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for a run now; the request stands until it can be met: while a run is open, or labels are missing.

    With --adapt the run trains nothing: it takes the batch norms' statistics of the champion anew from the
    unlabelled tiles, in seconds to a minute or two, and the gate judges what comes out. Refused where the gate could
    not.
    """
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, project)
            latest = runs.latest(session, row.id)
            if adapt:
                request_adaptation(session, row)
            else:
                request_run(session, row, by="manual")
            now = utc_now()
            facts, rules_now = facts_of(session, row, now=now), rules_of(session, row)
            decision = decide(now, facts, rules_now)
        here.wakeups.sync(row.id)
        missing = 0 if adapt else max(0, rules_now.min_labelled - facts.labelled_tiles)
        reasons = "; ".join(decision.reasons)
        found = {"project": row.key, "starts": decision.start, "reasons": list(decision.reasons), "missing": missing}
        line = f"{row.key}: {'starting' if decision.start else 'the request stands'}: {reasons}"
        if missing:
            line += f"; label {missing} more, and the run starts by itself"
        if as_json and not follow_it:
            print(json.dumps(found))
            return
        print(line, file=sys.stderr if as_json else sys.stdout)
        if not follow_it or missing:
            return
        run_id = next_run(here, row.id, 0 if latest is None else latest.id, adapt=adapt, to_stderr=as_json)
        follow(here, run_id, to_stderr=as_json)
        if as_json:
            print(json.dumps(_found(here, run_id), indent=2, default=str))


@app.command("cancel")
def stop_run(
    number: Annotated[int | None, typer.Argument(help="number of the run; unset: the open one")] = None,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Stop a run and wait for its end; the champion stays as it is, and the labels of the run count again."""
    began = time.monotonic()
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, project)
            run = cancel_run(session, row, number, now=utc_now(), actor="operator")
            run_id, number = run.id, run.number
        here.wakeups.train()
        while (seen := look(here, run_id)).state in runs.OPEN and time.monotonic() - began < CANCEL_WAIT_S:
            time.sleep(0.1)
        with here.database.transaction() as session:
            champion = projects.champion(session, projects.get(session, row.id)).version
    seconds = round(time.monotonic() - began, 1)
    found = {"run": number, "state": seen.state, "seconds": seconds, "champion": champion}
    if as_json:
        print(json.dumps(found))
    elif seen.state in runs.OPEN:
        print(f"run {number}: {seen.state}, stopping as soon as a worker answers; the champion stays {champion}")
    else:
        print(f"run {number}: {seen.state} after {seconds} s; the champion stays {champion}")


@app.command("logs")
def show_log(
    number: Annotated[int | None, typer.Argument(help="number of the run; unset: the latest")] = None,
    follow_it: FollowOption = False,
    lines: Annotated[int, typer.Option(min=0, help="last lines of each source; 0: all")] = 20,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a run has said: its events, the steps of its training, and the training's own log."""
    with opened() as here:
        with here.database.transaction() as session:
            run = _chosen(session, projects.choose(session, project).id, number)
        log = RunLog(here, run)
        said = last_lines(log.news(), lines)

        def say(line: Line) -> None:
            said.append(line)
            if not as_json:
                print(line, flush=True)

        if not as_json:
            print("\n".join(map(str, said)), flush=True)
        if follow_it:
            with left_alone(f"run {run.number} goes on"):
                follow_log(log, say)
    if as_json:
        print(json.dumps(as_rows(said), indent=2, default=str))


def _chosen(session: Session, project_id: int, number: int | None) -> Run:
    run = runs.latest(session, project_id) if number is None else runs.by_number(session, project_id, number)
    if run is None:
        raise Conflict("runs", "there is none yet", "label some tiles, or `mpamatch runs start`")
    return run


def _found(here: Opened, run_id: int) -> dict[str, Any]:
    with here.database.transaction() as session:
        run = session.get_one(Run, run_id)
        model = models.candidate_of(session, run.id)
        return {**_brief(run), **_figures(run), "verdict": None if model is None else model.verdict}


def _brief(run: Run) -> dict[str, Any]:
    progress = run.progress or {}
    return {
        "run": run.number,
        "state": run.state,
        "trigger": run.trigger,
        "learns": "no label" if run.trigger == runs.ADAPT else "labels",
        "version": run.version,
        "step": progress.get("step"),
        "steps": progress.get("steps"),
        "eta_s": progress.get("eta_s") if run.state == "training" else None,
        "problem": run.problem,
    }


def _figures(run: Run) -> dict[str, Any]:
    progress, metrics = run.progress or {}, run.metrics or {}
    adapts = run.trigger == runs.ADAPT
    return {
        "adapted": metrics.get("adapted"),
        "reasons": run.reasons,
        "losses": progress.get("losses"),
        "mask_ratio": metrics.get("mask_ratio", progress.get("mask_ratio")),
        "pseudo_labels": metrics.get("pseudo_labels") or progress.get("pseudo_labels"),
        "pool_tiles": metrics.get("pool_tiles", progress.get("pool_tiles")),
        "seconds": metrics.get("seconds"),
        "notes": metrics.get("notes") or progress.get("notes") or [],
        "attempt": run.attempt,
        "recipe": None if adapts else run.recipe.get("method"),
        "recipe_hash": None if adapts else run.recipe_hash,
        "created_at": run.created_at,
        "finished_at": run.finished_at,
    }
