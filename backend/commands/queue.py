"""`mpamatch queue`: what waits for a label, in the order in which Label Studio serves it."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from backend.commands.opened import opened, show
from backend.store import projects, queue

app = typer.Typer(help="The ranked queue.", no_args_is_help=True)


@app.command("list")
def list_queue(
    project: Annotated[str | None, typer.Option(help="key of the project; unset: the only one")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="how many entries")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="for machines")] = False,
) -> None:
    """The first entries with their reasons; those with a task are in Label Studio now."""
    with opened() as here, here.database.transaction() as session:
        listed = queue.listing(session, projects.choose(session, project), limit)
    rows = [{**dataclasses.asdict(entry), "why": "; ".join(entry.reasons)} for entry in listed]
    columns = ("rank", "ls_task_id", "tile_id", "image", "stratum", "state", "why")
    show(rows, columns, as_json=as_json, title="queue")


@app.callback()
def _group() -> None:
    """Keep `list` a word of its own even while it is the only command."""
