"""`mpamatch audit`: whether it works, in tables: confidence and tau, going on or not, what labels cost, agreement."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from sqlalchemy.orm import Session

from backend.actions.advise_stopping import StoppingAdvice, advise_stopping
from backend.actions.audit_tau import TARGET, TauAudit, audit_tau
from backend.actions.fit_costs import see_costs
from backend.actions.see_agreement import see_agreement
from backend.actions.tally_labels import subjects, tally_labels, waiting
from backend.commands.opened import JsonOption, ProjectOption, opened, progress_bar
from backend.commands.printed import print_table
from backend.store import projects
from backend.store.tables import Project
from mpamatch.domain.reliability import Reliability

app = typer.Typer(help="Whether it works: confidence, gains, costs, agreement.", no_args_is_help=True)

_AT_ONCE = 50
PrecisionOption = Annotated[
    float, typer.Option(min=0.01, max=0.999, help="of a class's pseudo-labels, the share that should be right")
]


@app.command("tau")
def tau(precision: PrecisionOption = TARGET, project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Can the champion's confidence be believed, which tau would each class need, and do models confirm themselves?"""
    with _counted(project) as (session, row):
        found = audit_tau(session, row, target=precision)
    if as_json:
        _document(asdict(found))
        return
    _print_tau(Console(), found)


@app.command("advice")
def advice(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Is it worth labelling on? What each verdict's labels brought and cost, and what the next head may add."""
    with _counted(project) as (session, row):
        found = advise_stopping(session, row)
    if as_json:
        _document(asdict(found))
        return
    _print_advice(Console(), found)


@app.command("costs")
def costs(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """How many seconds a click takes, by person, fitted to the times that labels took; lunch hardly counts."""
    with _counted(project) as (session, row):
        found = see_costs(session, row)
    if as_json:
        _document(asdict(found))
        return
    fits = [("all", found.overall), *found.by_person.items()]
    _table(
        console := Console(),
        "seconds = fixed + per click * clicks",
        ("who", "labels", "fixed s", "s per click", "spread s", "instead of a fit"),
        (
            (who, fit.labels, fit.model.seconds_fixed, fit.model.seconds_per_click, fit.spread_s, fit.why)
            for who, fit in fits
        ),
    )
    if found.ranked_by is not None:
        by = found.ranked_by
        console.print(f"the live order was ranked by {by.seconds_fixed:.1f} s + {by.seconds_per_click:.2f} s per click")


@app.command("agreement")
def agreement(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """How much two people's labels of the same tile agree, as Dice over the classes."""
    with _counted(project) as (session, row):
        found = see_agreement(session, row)
    if as_json:
        _document([asdict(one) for one in found])
        return
    _table(
        Console(),
        "agreement",
        ("people", "tiles", "of them blind", "dice", "interval", "lowest tile", "its dice"),
        (
            (
                " and ".join(one.people) if one.people else "all",
                one.tiles,
                one.blind_tiles,
                one.dice,
                _bounds(one.bounds),
                *(one.lowest or (None, None)),
            )
            for one in found
        ),
    )


@contextmanager
def _counted(key: str | None) -> Iterator[tuple[Session, Project]]:
    """The project in a transaction, once everything is counted that the workers have not come to yet."""
    with opened() as here:
        with here.database.transaction() as session:
            row = projects.choose(session, key)
            before = waiting(session, subjects(session, row))
        with progress_bar("counting") as tell:
            done = 0
            while tally_labels(here.database, here.blobs, row.id, limit=_AT_ONCE):
                done += _AT_ONCE
                tell(min(done, before), before)
        with here.database.transaction() as session:
            yield session, projects.get(session, row.id)


def _document(found: Any) -> None:
    print(json.dumps(found, indent=2, default=str))


def _print_tau(console: Console, found: TauAudit) -> None:
    console.print(escape(found.drift.says))
    if not found.audit_tiles:
        console.print(f"{found.champion}: no labelled audit tile that it has predicted")
    console.print()
    title = f"{found.champion} on {found.audit_tiles} audit tiles of {found.audit_groups} groups"
    _reliability(console, title, found.audit[0])
    names = ("all", *found.class_names)
    _table(
        console,
        "pseudo-labels at tau, audit tiles",
        ("class", "tau", "pixels", "pass", "accepted", "interval", "dice", "ECE"),
        (
            (name, one.at_tau.tau, one.pixels, one.at_tau.passed, one.at_tau.acceptance, _bounds(one.at_tau.bounds),
             one.at_tau.dice, one.ece)
            for name, one in zip(names, found.audit, strict=True)
        ),
    )  # fmt: skip
    _table(
        console,
        "champions on the same audit tiles",
        ("model", "confidence", "pass", "accepted", "dice"),
        ((s.version, s.confidence, s.passed, s.acceptance, s.dice) for s in found.drift.standings),
    )
    _table(
        console,
        f"the lowest tau at which {found.target:.0%} are right, from {found.held_tiles} tiles kept back from training",
        ("class", "tau", "interval", "accepted", "pass", "accepted on audit tiles"),
        (
            (name, one.tau, _tau_bounds(one.bounds), one.acceptance, one.passed, at and at.acceptance)
            for name, one, at in zip(found.class_names, found.advice, found.judged, strict=True)
        ),
    )
    for one in found.advice:
        if one.tau is None:
            console.print(escape(one.says))
    if found.held_suggested:
        told = f"{found.held_suggested} of {found.held_tiles} were labelled with a suggestion in view"
        console.print(f"{told}, which people tend to follow: read the acceptance on audit tiles")


def _reliability(console: Console, title: str, found: Reliability) -> None:
    _table(
        console,
        title,
        ("confidence", "pixels", "share", "mean confidence", "accepted", "interval", "dice"),
        (
            (f"{b.low:g} to {b.high:g}", b.pixels, b.share, b.confidence, b.acceptance, _bounds(b.bounds), b.dice)
            for b in found.bins
        ),
    )


def _print_advice(console: Console, found: StoppingAdvice) -> None:
    console.print(escape(found.advice.says))
    if found.advice.per_100_clicks is not None:
        gain = found.advice.per_100_clicks
        console.print(f"100 more clicks: {gain.expected:.4f} Dice ({gain.low:.4f} to {gain.high:.4f})")
    accepted = found.accepted
    if accepted.share is not None:
        console.print(
            f"{accepted.part} of the latest {accepted.whole} suggestions were accepted unchanged: "
            f"{accepted.share:.0%} ({accepted.low:.0%} to {accepted.high:.0%})"
        )
    if found.clicks_per_tile is not None and found.seconds_per_tile is not None:
        console.print(f"a tile takes about {found.clicks_per_tile:.0f} clicks, {found.seconds_per_tile:.0f} s")
    console.print()
    _table(
        console,
        "what each verdict's labels brought",
        ("model", "against", "promoted", "labelled", "clicks", "minutes", "difference", "interval", "per 100 clicks"),
        (
            (
                v.version,
                v.against,
                "yes" if v.promoted else "no",
                f"{v.step.labelled_before} to {v.step.labelled_after}",
                round(v.clicks),
                round(v.seconds / 60),
                v.step.difference,
                None if v.step.lower is None or v.step.upper is None else _bounds((v.step.lower, v.step.upper)),
                v.per_100_clicks,
            )
            for v in found.verdicts
        ),
    )


def _table(console: Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(_word(cell)) for cell in row))
    if table.row_count:
        print_table(table, console)
    else:
        console.print(escape(f"{title}: none"))


def _bounds(bounds: tuple[float, float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _tau_bounds(bounds: tuple[float, float | None] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:g} to {'none' if bounds[1] is None else f'{bounds[1]:g}'}"


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)
