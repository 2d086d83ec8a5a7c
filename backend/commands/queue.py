"""`mpamatch queue`: what waits for a label, in the order in which Label Studio serves it."""

from __future__ import annotations

import dataclasses
import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from backend.actions.answer_tile import Answer, answer_tile, drafts, leave_out, take_back, use_draft
from backend.actions.export_queue import begin_export, image_exports, written
from backend.actions.see_progress import see_progress
from backend.clock import utc_now
from backend.commands.opened import JsonOption, ProjectOption, opened, show
from backend.commands.queue_rules import rules
from backend.store import leases, projects, queue
from backend.store.tables import Annotation as AnnotationRow
from mpamatch.errors import BadInput, Conflict, NotFound
from mpamatch.files.whole_files import write_pieces

app = typer.Typer(help="The ranked queue.", no_args_is_help=True)
app.command("rules")(rules)


class Scope(StrEnum):
    """What of a tile an answer is about, in the words of Label Studio's page."""

    whole_tile = "whole tile"
    only_the_boxes = "only the boxes"
    artefact = "artefact"
    cannot_tell = "cannot tell"


class Form(StrEnum):
    """What the order is written as."""

    csv = "csv"
    geojson = "geojson"


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
        waiting = None if taken else leases.waiting(session, projects.choose(session, project))
    if waiting is not None:
        print(f"note: {_nothing_to_take(waiting)}", file=sys.stderr)
    show(rows, ("tile_id", "attempt", "held_until", "rank", "why"), as_json=as_json, title="taken")


def _nothing_to_take(waiting: leases.Waiting) -> str:
    if waiting.in_label_studio:
        head = f"{waiting.in_label_studio} of the tiles that wait stand in Label Studio"
        return f"{head}, and nobody else gets these; a smaller head (mpamatch queue rules --head-size) leaves more here"
    if waiting.held:
        return "each tile that waits is held by somebody; it comes back when its time is over"
    return "no tile waits"


@app.command("renew")
def renew(
    tile_id: TileArgument,
    attempt: AttemptOption,
    holder: HolderOption = "operator",
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hold a tile longer: from now on as long as when it was taken."""
    with opened() as here, here.database.transaction() as session:
        row = leases.renew(
            session,
            projects.choose(session, project).id,
            tile_id,
            holder=f"command:{holder}",
            attempt=attempt,
            now=utc_now(),
            lease_s=here.settings.entry_lease_s,
        )
    _say({"tile_id": row.tile_id, "state": row.state, "held_until": row.lease_until}, as_json)


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
    _say({"tile_id": row.tile_id, "state": row.state}, as_json)


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
        row = leave_out(
            session,
            here.blobs,
            projects.choose(session, project),
            tile_id,
            holder=f"command:{holder}",
            attempt=attempt,
            reason=reason,
            now=utc_now(),
        )
    _say({"tile_id": row.tile_id, "state": row.state}, as_json)


@app.command("submit")
def submit(
    tile_id: TileArgument,
    attempt: AttemptOption,
    scope: Annotated[
        Scope, typer.Option(help="what the answer is about; a mask is needed for `whole tile` and `only the boxes`")
    ] = Scope.whole_tile,
    mask: Annotated[
        Path | None, typer.Option(help="PNG of class ids of the picture's size, 255 where nothing is said")
    ] = None,
    shown: Annotated[str | None, typer.Option(help="model version whose suggestion the mask was drawn on")] = None,
    holder: HolderOption = "operator",
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer a tile: its mask, that it is an artefact, or that you cannot tell. A late answer is kept as a draft."""
    answer = Answer(scope.value, None if mask is None else _read(mask), shown)
    with opened() as here:
        with here.database.transaction() as session:
            row = answer_tile(
                session,
                here.blobs,
                projects.choose(session, project),
                tile_id,
                answer,
                holder=f"command:{holder}",
                attempt=attempt,
                now=utc_now(),
            )
        here.wakeups.sync(row.project_id)
    if row.state == "draft":
        problem = f"{row.problem}: your answer is kept as draft {row.id} and does not count"
        raise Conflict(f"tile {tile_id}", problem, f"to let it count: mpamatch queue use-draft {row.id}")
    _say(_answered(row), as_json)


@app.command("drafts")
def list_drafts(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Answers that came too late and wait for a decision."""
    with opened() as here, here.database.transaction() as session:
        rows = [_answered(row) for row in drafts(session, projects.choose(session, project))]
    show(rows, ("draft", "tile_id", "scope", "by", "submitted_at", "why"), as_json=as_json, title="drafts")


@app.command("use-draft")
def use(
    draft: Annotated[int, typer.Argument(min=1, help="number of the draft")],
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a draft count after all, as the newest word on its tile."""
    with opened() as here:
        with here.database.transaction() as session:
            chosen = projects.choose(session, project)
            row = use_draft(session, here.blobs, chosen, draft, actor="command:operator", now=utc_now())
        here.wakeups.sync(row.project_id)
    _say(_answered(row), as_json)


@app.command("take-back")
def take_back_answer(
    answer: Annotated[int, typer.Argument(min=1, help="number that `queue submit` printed, or of a draft")],
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take an answer back: its mask counts no more, an artefact is none any more, its tile is asked for again."""
    with opened() as here:
        with here.database.transaction() as session:
            chosen = projects.choose(session, project)
            row = take_back(session, here.blobs, chosen, answer, actor="command:operator", now=utc_now())
        here.wakeups.sync(row.project_id)
    _say(_answered(row), as_json)


@app.command("progress")
def progress(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """How far the labelling is: what waits, what was annotated, how much of it today, and by whom."""
    with opened() as here, here.database.transaction() as session:
        seen = see_progress(session, projects.choose(session, project), now=utc_now())
    told = dataclasses.asdict(seen)
    if as_json:
        print(json.dumps(told, default=str))
        return
    people = [_worded({**one, "who": one["holder"] or f"annotator {one['annotator']}"}) for one in told.pop("by")]
    told = _worded(told)
    show([told], tuple(told), as_json=False, title="progress")
    show(people, ("who", "annotated", "skipped", "today", "last_at"), as_json=False, title="by whom")


def _worded(told: dict[str, Any]) -> dict[str, Any]:
    """For people: a tile that somebody annotated is no more than that; labelled is what has a mask. The key stays."""
    return {"annotated" if name == "labelled" else name: value for name, value in told.items()}


@app.command("export")
def export(
    out: Annotated[Path, typer.Argument(help="file to write (CSV), or folder for one file per image (GeoJSON)")],
    form: Annotated[Form, typer.Option("--format", help="a line per region, or QuPath's objects")] = Form.csv,
    every_state: Annotated[bool, typer.Option("--all", help="what was labelled or left out too")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="write over files that are there")] = False,
    project: ProjectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write the order with its regions in level-0 pixels, their factors, reasons and rank. A missing folder is made."""
    _check_kind(out, form)
    with opened() as here:
        with here.database.transaction() as session:
            project_id = projects.choose(session, project).id
        begun = begin_export(here.database, project_id, every_state=every_state)
        exports = [(out, begun)]
        if form is Form.geojson:
            exports = [(out / f"{name}.geojson", one) for name, one in image_exports(here.database, begun)]
        if not replace:
            _check_free([path for path, _ in exports])
        folder = out if form is Form.geojson else out.parent
        made = "" if folder.is_dir() or not exports else f"; made the folder {folder}"
        for path, one in exports:
            write_pieces(path, written(here.database, one, form.value))
    files = [str(path) for path, _ in exports]
    if as_json:
        print(json.dumps({"files": files, "generation": begun.generation}))
    elif form is Form.csv:
        print(f"the order is in {out}{made}")
    elif files:
        print(f"the order is in {len(files)} files, one for each image, in {out}{made}")
    else:
        print(f"no file was written: {'the order is empty' if every_state else 'no tile waits'}")


def _check_kind(out: Path, form: Form) -> None:
    """Raises BadInput where a folder is meant and a file named, or the other way round."""
    if form is Form.csv and out.is_dir():
        raise BadInput(str(out), "is a folder, and CSV is one file", "name a file in it, or give --format geojson")
    if form is Form.geojson and out.exists() and not out.is_dir():
        raise BadInput(str(out), "is a file, and GeoJSON is one file for each image", "name a folder for them")


def _check_free(paths: list[Path]) -> None:
    """Raises Conflict, before anything is written."""
    there = [path for path in paths if path.exists()]
    if there:
        which, problem = str(there[0]), "exists already"
        if len(there) > 1:
            which, problem = f"{which} and {len(there) - 1} more", "exist already"
        raise Conflict(which, problem, "name another place, or give --replace to write over it")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFound(str(path), f"cannot be read ({error.strerror})", "name a PNG of class ids") from error


def _answered(row: AnnotationRow) -> dict[str, Any]:
    return {
        "draft" if row.state == "draft" else "annotation": row.id,
        "tile_id": row.tile_id,
        "state": row.state,
        "scope": row.scope,
        "by": row.holder,
        "submitted_at": row.updated_at,
        "why": row.problem,
    }


def _say(told: dict[str, Any], as_json: bool) -> None:
    """About one tile: its state first, then what else there is to say."""
    if as_json:
        print(json.dumps(told, default=str))
        return
    rest = [
        f"{name}: {value}" for name, value in told.items() if value is not None and name not in ("tile_id", "state")
    ]
    print("  ".join([f"tile {told['tile_id']}: {told['state']}", *rest]))
