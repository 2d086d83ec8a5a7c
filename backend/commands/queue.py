"""`mpamatch queue`: what waits for a label, in the order in which Label Studio serves it."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated

import typer

from backend.clock import utc_now
from backend.commands.opened import JsonOption, ProjectOption, opened, show
from backend.store import leases, projects, queue
from mpamatch.errors import BadInput

app = typer.Typer(help="The ranked queue.", no_args_is_help=True)


@app.command("list")
def list_queue(
    project: ProjectOption = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="how many entries")] = 50,
    as_json: JsonOption = False,
) -> None:
    """The first entries with their reasons; those with a task are in Label Studio now."""
    with opened() as here, here.database.transaction() as session:
        listed = queue.listing(session, projects.choose(session, project), limit)
    rows = [{**dataclasses.asdict(entry), "why": "; ".join(entry.reasons)} for entry in listed]
    columns = ("rank", "ls_task_id", "tile_id", "image", "stratum", "state", "why")
    show(rows, columns, as_json=as_json, title="queue")


HolderOption = Annotated[str, typer.Option(help="for whom: the name under which it is held")]
AttemptOption = Annotated[int, typer.Option(min=1, help="the attempt that `queue next` printed")]
TileArgument = Annotated[int, typer.Argument(min=1, help="number of the tile")]


@app.command("next")
def take_next(
    holder: HolderOption = "operator",
    count: Annotated[int, typer.Option(min=1, max=50, help="how many tiles")] = 1,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take the best tiles that nobody holds; they stay out of Label Studio until they are back or the time is over."""
    with opened() as here, here.database.transaction() as session:
        taken = leases.claim(
            session,
            projects.choose(session, project).id,
            holder=f"command:{holder}",
            count=count,
            now=utc_now(),
            lease_s=here.settings.entry_lease_s,
        )
        rows = [
            {
                "tile_id": entry.tile_id,
                "attempt": entry.attempt,
                "held_until": entry.lease_until,
                "rank": entry.rank,
                "why": "; ".join(entry.reasons),
            }
            for entry in taken
        ]
    show(rows, ("tile_id", "attempt", "held_until", "rank", "why"), as_json=as_json, title="taken")


@app.command("release")
def release(
    tile_id: TileArgument,
    attempt: AttemptOption,
    holder: HolderOption = "operator",
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a tile back: the next one who asks may have it."""
    with opened() as here, here.database.transaction() as session:
        row = leases.release(
            session,
            projects.choose(session, project).id,
            tile_id,
            holder=f"command:{holder}",
            attempt=attempt,
            now=utc_now(),
        )
    _say(row.tile_id, row.state, as_json)


@app.command("skip")
def skip(
    tile_id: TileArgument,
    attempt: AttemptOption,
    reason: Annotated[str, typer.Option(help="why nobody should be asked for it")],
    holder: HolderOption = "operator",
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Leave a tile out of the queue for good."""
    reason = reason.strip()
    if not reason or len(reason) > 500 or not reason.isprintable():
        raise BadInput("reason", "is empty, longer than 500 characters or not printable", "say in a line why")
    with opened() as here, here.database.transaction() as session:
        row = leases.skip(
            session,
            projects.choose(session, project).id,
            tile_id,
            holder=f"command:{holder}",
            attempt=attempt,
            reason=reason,
            now=utc_now(),
        )
    _say(row.tile_id, row.state, as_json)


def _say(tile_id: int, state: str, as_json: bool) -> None:
    print(json.dumps({"tile_id": tile_id, "state": state}) if as_json else f"tile {tile_id}: {state}")
