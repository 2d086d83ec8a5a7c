"""`mpamatch explain TILE`: the whole story of a tile, for people and for machines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from backend.actions.explain_tile import Story, explain_tile
from backend.actions.see_tile import Place
from backend.commands.opened import JsonOption, opened
from backend.commands.printed import print_table


def explain(
    tile: Annotated[int, typer.Argument(help="id of the tile, as `queue list` and task data (`tile_id`) have it")],
    runs: Annotated[int, typer.Option(min=0, max=10_000, help="how many runs are looked into, the latest first")] = 20,
    as_json: JsonOption = False,
) -> None:
    """Tell a tile's story: predictions, why it was queued, tasks, who labelled it how long, runs, verdicts, events."""
    with opened() as here:
        story = explain_tile(here.database, here.blobs, tile, runs_limit=runs)
    if as_json:
        print(json.dumps(as_document(story), indent=2, default=_plain))
        return
    _print(Console(), story)


def as_document(story: Story) -> dict[str, Any]:
    """The story as JSON values; outlines of regions are left out, since the dashboard draws them."""
    found = asdict(story)
    for region in found["tile"]["regions"]:
        del region["rings"]
    return found


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _print(console: Console, story: Story) -> None:
    tile = story.tile
    console.print(f"[bold]tile {tile.tile_id}[/] of {escape(tile.image)}, project {escape(story.project)}")
    console.print(
        f"  group {escape(tile.group)}, split {tile.split}, {tile.width_px} x {tile.height_px} px"
        f" at {tile.x_px}, {tile.y_px}; tile {tile.state}, image {tile.image_state}"
    )
    if tile.image_problem:
        console.print(f"  set aside: {escape(tile.image_problem)}")
    if tile.blind:
        console.print("  an audit tile without a mask: what models say of it is not shown, it would bend the yardstick")
    _queue(console, story)
    _rows(
        console,
        "predictions",
        ("model", "state", "made", "regions", "classes"),
        ((p.version, p.model_state, _at(p.made_at), p.regions, _shares(p.class_shares)) for p in story.predictions),
    )
    _rows(
        console,
        "tasks in Label Studio",
        ("task", "origin", "state", "shows", "score", "published", "opened", "why"),
        (
            (t.ls_task_id, t.origin, t.state, t.shown_version, t.score, _at(t.published_at), _at(t.opened_at), t.why)
            for t in story.tasks
        ),
    )
    _rows(
        console,
        "annotations",
        ("annotation", "by", "state", "seconds", "clicks", "was shown", "updated", "problem"),
        (
            (
                f"queue {a.row}" if a.number is None else a.number,
                a.holder or a.annotator,
                a.state,
                a.seconds,
                a.clicks,
                a.shown_version,
                _at(a.updated_at),
                a.problem,
            )
            for a in tile.annotations
        ),
    )
    _rows(
        console,
        "masks",
        ("version", "origin", "reviewed", "made", ""),
        ((m.version, m.origin, f"{m.reviewed_share:.0%}", _at(m.created_at), _standing(m)) for m in tile.masks),
    )
    _rows(
        console,
        "runs that saw it",
        ("run", "state", "used it", "mask", "candidate", "verdict", "why"),
        (
            (r.number, r.state, r.used, _mask(r.mask_version, r.first), r.candidate, r.verdict, "; ".join(r.reasons))
            for r in story.runs
        ),
    )
    if story.runs_unread:
        console.print(f"  {story.runs_unread} earlier runs were not looked into: --runs takes more")
    _rows(
        console,
        "events",
        ("when", "who", "what", "of"),
        ((_at(e.at), e.actor, e.what, e.subject) for e in story.events),
    )


def _queue(console: Console, story: Story) -> None:
    place, tile = story.tile.place, story.tile
    if place is None:
        console.print("\n[bold]queue[/]: it has no place in the present order")
        return
    order = f"order {place.generation} of {_at(place.made_at)} by {place.by}, strategy {place.strategy}"
    console.print(f"\n[bold]queue[/]: {_place(place)}; {escape(order)}")
    drawn = f"noise {place.noise:.4g}, propensity {place.propensity:.4g}, round {place.round}"
    console.print(f"  score {place.score:.4g} with {drawn}")
    for reason in place.reasons:
        console.print(f"  {escape(str(reason))}")
    if place.breakdown is not None:
        _rows(
            console,
            "figures of its best region",
            ("figure", "from", "raw", "in 0..1", "weight"),
            ((part.name, part.figure, part.raw, part.factor, part.weight) for part in place.breakdown.parts),
        )
        taken = place.breakdown
        console.print(
            f"  support {taken.support:.3f}, cost {taken.cost:.3f}: the sum counts times {taken.discount:.3f}"
        )
        if not tile.whole:
            console.print(f"  expected to take {taken.clicks:.0f} clicks, {taken.seconds:.0f} s")
    if tile.whole and tile.regions:
        console.print("  reviewed as a whole: its regions say where the model is unsure, and have no boxes to answer")
    for region in tile.regions:
        looked = "" if region.bald is None else f", BALD {region.bald:.3f}"
        console.print(
            f"  region {region.number}: {escape(region.predicted_class)}, {region.area_px} px at {region.x_px},"
            f" {region.y_px}; confidence {region.confidence:.2f}, uncertainty {region.uncertainty:.2f}{looked}"
        )


def _place(place: Place) -> str:
    by = place.stratum if place.class_name is None else f"{place.stratum} {escape(place.class_name)}"
    if place.live and place.state in ("open", "leased"):
        return f"rank {place.rank} of {place.size}, by {by}, {place.state}"
    return f"was rank {place.rank}, by {by}, {place.state}"


def _rows(console: Console, title: str, columns: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> None:
    table = Table(*columns, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(_word(cell)) for cell in row))
    console.print()
    if table.row_count:
        print_table(table, console)
    else:
        console.print(f"[bold]{title}[/]: none")


def _standing(mask: Any) -> str:
    return "withdrawn" if mask.withdrawn else "counts" if mask.counts else ""


def _mask(version: int | None, first: bool) -> str:
    return "" if version is None else f"version {version}{', new to it' if first else ''}"


def _shares(shares: dict[str, float] | None) -> str:
    return "" if shares is None else ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


def _at(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment:%Y-%m-%d %H:%M:%S}"


def _word(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value)
