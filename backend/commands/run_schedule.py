"""`mpamatch runs schedule` and `mpamatch runs rules`: when a project trains by itself and how, and what is due now."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy.orm import Session

from backend.actions.open_run import facts_of, rules_of
from backend.clock import utc_now
from backend.commands.opened import JsonOption, ProjectOption, opened
from backend.commands.printed import print_table
from backend.store import projects, schedules
from backend.store.schedules import Plan
from backend.store.tables import Project
from mpamatch.domain.cron import Cron, utc_text
from mpamatch.domain.policy import Policy
from mpamatch.domain.quiet_hours import QuietHours
from mpamatch.domain.recipe import METHODS, Recipe
from mpamatch.domain.schedule import RetrainDecision, RetrainFacts, decide
from mpamatch.domain.wall_clock import first_instant, zone_of
from mpamatch.errors import BadInput

NONE = "none"
SHIPPED = "shipped"
DryRun = Annotated[bool, typer.Option("--dry-run", help="write nothing; say what would happen when, and why")]


def schedule(
    cron: Annotated[str | None, typer.Argument(help="'minute hour day month weekday', or @daily and the like")] = None,
    tz: Annotated[str | None, typer.Option(help="time zone, as Europe/Paris; unset: as before, at first UTC")] = None,
    quiet: Annotated[
        str | None, typer.Option(help="local hours in which no run starts by itself, as 22:00-06:00; none: no such")
    ] = None,
    always: Annotated[
        bool | None, typer.Option("--always/--if-new", help="run even when no label is new since the last run")
    ] = None,
    off: Annotated[bool, typer.Option("--off", help="remove the schedule; quiet hours and rules stay")] = False,
    dry_run: DryRun = False,
    since: Annotated[
        str | None, typer.Option("--from", help="show what is due from this local time on, as 2026-10-24; unset: now")
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=100, help="due times to show")] = 5,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train by the clock: set the schedule and the quiet hours of a project, or show them and what comes next."""
    now = utc_now()
    if off and cron is not None:
        raise typer.BadParameter("give a schedule or --off, not both", param_hint="--off")
    asked = any(value is not None for value in (cron, tz, quiet, always)) or off
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, project)
            present = schedules.plan_of(schedules.of(session, row.id))
            plan = _changed(present, cron=cron, tz=tz, quiet=quiet, always=always, off=off)
            start = now if since is None else _local_time(since, plan.zone)
            writes = asked and not dry_run and plan != present
            if writes:
                schedules.put(session, row, plan, now=now, actor="operator")
            found = {
                "project": row.key,
                **_plan_row(plan),
                "written": writes,
                **_last(session, row),
                "rules": _rules(projects.policy_of(row)),
                "dues": _dues(plan, start, count),
                "now": _now(session, row, plan, now, new=plan != present and not writes),
            }
        if writes:
            here.wakeups.sync(row.id)
    if as_json:
        print(json.dumps(found, indent=2, default=str))
        return
    _show(found, plan, dry_run=dry_run)


def rules(
    after_tiles: Annotated[int | None, typer.Option(help="changed tiles that start a run")] = None,
    debounce_s: Annotated[float | None, typer.Option(help="quiet time after the last change before it starts")] = None,
    by_labels: Annotated[
        bool | None, typer.Option("--by-labels/--no-by-labels", help="whether changed tiles start runs at all")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help=f"how runs train from now on: {', '.join(METHODS)}; {SHIPPED}: what comes with the product"),
    ] = None,
    dry_run: DryRun = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train after labels: set how many changed tiles start a run, after what pause, by which method; or show it."""
    given = {"retrain_after_tiles": after_tiles, "debounce_s": debounce_s, "retrain_by_labels": by_labels}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if method is not None:
        changes["train_method"] = None if method == SHIPPED else method
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, project)
            policy = projects.changed_policy(row, changes)
            writes = policy != projects.policy_of(row) and not dry_run
            if writes:
                projects.change_policy(session, row, changes, actor="operator")
            now = utc_now()
            facts, trigger = facts_of(session, row, now=now), rules_of(session, row, policy=policy)
            decision = decide(now, facts, trigger)
            found = {"project": row.key, **_rules(policy), "written": writes, "now": _decision_row(decision, facts)}
        if writes:
            here.wakeups.sync(row.id)
    if as_json:
        print(json.dumps(found, indent=2, default=str))
        return
    print(f"{row.key}: {_rules_words(found)}{' (dry run: nothing was written)' if dry_run else ''}")
    print(f"runs train by {found['method']}{'' if found['method_chosen'] else ', the shipped method'}")
    print(_now_words(found["now"]))


def _changed(
    present: Plan, *, cron: str | None, tz: str | None, quiet: str | None, always: bool | None, off: bool
) -> Plan:
    """The plan with what was asked for. Raises BadInput."""
    zone = present.zone if tz is None else tz
    zone_of(zone)
    text = cron if cron is not None else None if off or present.cron is None else present.cron.text
    hours = quiet if quiet is not None else NONE if present.quiet is None else str(present.quiet)
    return Plan(
        cron=None if text is None else Cron(text.strip(), zone),
        quiet=None if hours.strip().lower() == NONE else QuietHours.parse(hours, zone),
        always=present.always if always is None else always,
        zone=zone,
    )


def _local_time(text: str, zone: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadInput(f"--from {text!r}", "is no time", "write 2026-10-24 or 2026-10-24T12:00") from None
    return moment if moment.tzinfo is not None else first_instant(moment, zone_of(zone))


def _dues(plan: Plan, after: datetime, count: int) -> list[dict[str, Any]]:
    if plan.cron is None:
        return []
    rows = []
    for due in islice(plan.cron.dues(after), count):
        until = None if plan.quiet is None else plan.quiet.until(due.at)
        why = [due.note] if due.note else []
        if until is not None:
            why.append(f"in the quiet hours {plan.quiet}: waits until they end")
        rows.append({"due_local": _local(due.at, plan.zone), "due": due.at, "starts": until or due.at, "why": why})
    return rows


def _now(session: Session, project: Project, plan: Plan, now: datetime, *, new: bool) -> dict[str, Any]:
    """The decision at this moment; ``new`` plans are tried without being written."""
    facts, policy = facts_of(session, project, now=now), rules_of(session, project)
    if new:
        due = None if plan.cron is None else plan.cron.next_due(now)
        facts = replace(facts, schedule_due=due, periods_due=1)
        policy = replace(policy, quiet=plan.quiet, schedule_always=plan.always)
    decision = decide(now, facts, policy)
    return _decision_row(decision, facts)


def _decision_row(decision: RetrainDecision, facts: RetrainFacts) -> dict[str, Any]:
    return {
        "starts": decision.start,
        "trigger": decision.trigger,
        "reasons": list(decision.reasons),
        "not_before": decision.not_before,
        "changed_tiles": facts.new_tiles,
        "open_run": facts.open_run,
    }


def _plan_row(plan: Plan) -> dict[str, Any]:
    return {
        "cron": None if plan.cron is None else plan.cron.text,
        "tz": plan.zone,
        "quiet": None if plan.quiet is None else str(plan.quiet),
        "always": plan.always,
    }


def _last(session: Session, project: Project) -> dict[str, Any]:
    row = schedules.of(session, project.id)
    names = ("next_due_at", "last_fired_at", "last_outcome", "last_outcome_at")
    return {name: None if row is None else getattr(row, name) for name in names}


def _rules(policy: Policy) -> dict[str, Any]:
    return {
        "by_labels": policy.retrain_by_labels,
        "after_tiles": policy.retrain_after_tiles,
        "debounce_s": policy.debounce_s,
        "method": Recipe.for_profile(policy.train_profile, policy.train_method).method,
        "method_chosen": policy.train_method is not None,
    }


def _rules_words(found: dict[str, Any]) -> str:
    if not found["by_labels"]:
        return "labels alone start no run"
    return f"{found['after_tiles']} changed tiles start a run, {found['debounce_s']:g} s after the last change"


def _now_words(found: dict[str, Any]) -> str:
    word = "a run starts" if found["starts"] else "no run starts"
    later = "" if found["not_before"] is None else f"; not before {utc_text(found['not_before'])}"
    return f"now: {word}: {'; '.join(found['reasons'])}{later}"


def _local(instant: datetime, zone: str) -> str:
    here = instant.astimezone(zone_of(zone))
    return f"{here:%a} {here.isoformat(sep=' ', timespec='minutes')}"


def _show(found: dict[str, Any], plan: Plan, *, dry_run: bool) -> None:
    console = Console(soft_wrap=True, markup=False, highlight=False)
    when = "no schedule" if plan.cron is None else f"'{plan.cron.text}' in {plan.zone}"
    hours = "" if plan.quiet is None else f", quiet hours {plan.quiet} ({plan.zone})"
    state = " (dry run: nothing was written)" if dry_run else " (set)" if found["written"] else ""
    console.print(f"{found['project']}: {when}{hours}{state}")
    if found["dues"]:
        table = Table()
        for name in (f"due, {plan.zone}", "due, UTC", "a run starts, UTC", "why then"):
            table.add_column(name, overflow="fold")
        for row in found["dues"]:
            at = (f"{moment:%Y-%m-%d %H:%M}" for moment in (row["due"], row["starts"]))
            table.add_row(row["due_local"], *at, "; ".join(row["why"]))
        print_table(table, console)
        news = "whether labels are new or not" if plan.always else "if labels are new since the last run"
        console.print(f"a period that is due starts a run {news}; periods that pass unseen count as one")
    console.print(f"beside it: {_rules_words(found['rules'])}")
    if found["last_outcome"] is not None:
        console.print(f"last period: {found['last_outcome']}, at {utc_text(found['last_outcome_at'])}")
    console.print(_now_words(found["now"]))
