"""Bring one Label Studio task's annotations over as they are now: rows verbatim, masks by the rules.

The present state is read, so a webhook that came twice, late or forged cannot matter. A label that cannot be read is
kept and set aside with its reason; it never trains. A task that was removed as a whole keeps its masks: cleaning up
Label Studio is no withdrawal of a label.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.actions import show_tile
from backend.actions.combine_answers import add_answer, settle
from backend.labelstudio.config import ARTEFACT
from backend.labelstudio.results import MaskReading, result_to_mask, scope_of
from backend.store import events, leases, masks, predictions, projects, queue, tasks
from backend.store.annotations import beside, mark_tile
from backend.store.blobs import BlobStore
from backend.store.returning import is_asked_for
from backend.store.sessions import Database
from backend.store.tables import Annotation, Project, Task, Tile
from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput, NotFound


def collect_task(
    database: Database,
    blobs: BlobStore,
    project_id: int,
    ls_task: dict[str, Any],
    *,
    now: datetime,
    shown: Mapping[int, str] | None = None,
) -> int:
    """Apply every annotation of a task as read from Label Studio; returns how many rows changed.

    ``shown``: by annotation, the model version that its page showed; where it is not known, the task's present one.
    """
    with database.transaction() as session:
        task = tasks.by_ls_id(session, project_id, int(ls_task["id"]))
        if task is None or show_tile.tile_of(ls_task.get("data")) not in (None, task.tile_id):
            return 0  # another tile's under a number that came again: its labels are not of our row's tile
        # One reader at a time per tile, so that two deliveries of one label make one mask version.
        session.execute(select(Tile.id).where(Tile.id == task.tile_id).with_for_update())
        present = sorted(ls_task.get("annotations") or [], key=lambda a: (a["updated_at"], a["id"]))
        changed = sum(_apply(session, blobs, project_id, task, a, shown or {}, now=now) for a in present)
        changed += _withdraw_missing(session, blobs, project_id, task, {int(a["id"]) for a in present}, now=now)
        if changed:
            _close(session, projects.get(session, project_id), task)
    return changed


def _apply(
    session: Session,
    blobs: BlobStore,
    project_id: int,
    task: Task,
    read: dict[str, Any],
    shown: Mapping[int, str],
    *,
    now: datetime,
) -> int:
    updated_at = datetime.fromisoformat(read["updated_at"])
    row = session.scalars(
        select(Annotation).where(Annotation.project_id == project_id, Annotation.ls_annotation_id == int(read["id"]))
    ).one_or_none()
    unchanged = row is not None and row.updated_at == updated_at
    if row is not None and unchanged and row.state not in ("deleted", "quarantined"):
        return 0
    if row is not None and unchanged and row.state == "quarantined" and row.problem == _problem(session, row, read):
        return 0  # read again, since its class may be known again; it is not
    if row is None:
        row = Annotation(project_id=project_id, ls_annotation_id=int(read["id"]))
        session.add(row)
    result = read.get("result")
    result = [] if result is None else result
    row.tile_id = task.tile_id
    row.ls_task_id = task.ls_task_id
    row.result_blob = blobs.put(json.dumps(result, sort_keys=True).encode())
    row.annotator = _person(read.get("completed_by"))
    row.lead_time_s = read.get("lead_time")
    row.shown_version = shown.get(int(read["id"]), task.model_version)
    row.updated_at = updated_at
    row.problem = row.scope = None
    row.state = "skipped" if read.get("was_cancelled") else "present"
    session.flush()
    if row.state == "skipped":
        row.scope = _artefact_of_skip(result)
        withdraw(session, blobs, row, now=now)
    else:
        _read_mask(session, blobs, project_id, task, row, result, now=now)
    events.record(
        session,
        project_id=project_id,
        actor=f"annotator:{row.annotator}",
        what=f"annotation {row.state}",
        subject=f"annotation:{row.id}",
        after={
            "tile": task.tile_id,
            "shown": row.shown_version,
            "problem": row.problem,
            "beside": beside(session, row),
        },
    )
    return 1


def _problem(session: Session, row: Annotation, read: dict[str, Any]) -> str | None:
    """Why an annotation cannot be read now; None when it can."""
    tile = session.get_one(Tile, row.tile_id)
    classes = projects.classes_of(projects.get(session, row.project_id))
    result = read.get("result")
    return reading_problem([] if result is None else result, *tile.size_px, classes)


def reading_problem(result: Any, width_px: int, height_px: int, classes: ClassSet) -> str | None:
    """The one line that an annotation is set aside with, as it came, list or not; None when it makes a mask."""
    try:
        result_to_mask(result, width=width_px, height=height_px, classes=classes)
    except BadInput as error:
        return str(error)
    return None


def _read_mask(
    session: Session,
    blobs: BlobStore,
    project_id: int,
    task: Task,
    row: Annotation,
    result: Any,
    *,
    now: datetime,
) -> None:
    project = projects.get(session, project_id)
    tile = session.get_one(Tile, task.tile_id)
    classes = projects.classes_of(project)
    prediction = shown = None
    if row.shown_version is not None:
        prediction = predictions.by_version(session, project_id, row.shown_version, [tile.id]).get(tile.id)
        shown = _shown(session, blobs, project, row.shown_version, tile.id)
    try:
        reading = result_to_mask(
            result,
            width=tile.size_px[0],
            height=tile.size_px[1],
            classes=classes,
            shown=shown,
        )
    except BadInput as error:
        row.state, row.problem = "quarantined", str(error)
        withdraw(session, blobs, row, now=now)
        return
    keep_mask(session, blobs, row, reading, None if prediction is None else prediction.id)


def _shown(
    session: Session, blobs: BlobStore, project: Project, version: str, tile_id: int
) -> list[dict[str, Any]] | None:
    """What the page showed; None where it is not known any more. A lost raster of ours must not cost a label."""
    one = show_tile.read_shown(session, project, version, [tile_id]).get(tile_id)
    if one is None:
        return None
    try:
        return show_tile.result_of(blobs, one, projects.classes_of(project), project.label_type)
    except (BadInput, NotFound):
        return None


def keep_mask(
    session: Session, blobs: BlobStore, row: Annotation, reading: MaskReading, prediction_id: int | None
) -> None:
    """The mask of an annotation that counts; its tile is an artefact from now on, or is none any more."""
    row.scope = reading.scope
    mark_tile(session, row.tile_id)
    add_answer(session, blobs, row, reading.mask, origin=reading.origin, prediction_id=prediction_id)


def _artefact_of_skip(result: Any) -> str | None:
    """A skip teaches nothing, but who chooses `artefact` with it has said what the tile is."""
    try:
        scope = scope_of(result)
    except BadInput:
        return None
    return scope if scope == ARTEFACT else None


def withdraw(session: Session, blobs: BlobStore, row: Annotation, *, now: datetime) -> None:
    """Take back what an annotation said: its masks, its pixels in those of others, and whether its tile is an
    artefact."""
    if masks.withdraw_of_annotation(session, row.id, now=now):
        settle(session, blobs, row.tile_id)
    mark_tile(session, row.tile_id)


def _withdraw_missing(
    session: Session, blobs: BlobStore, project_id: int, task: Task, present: set[int], *, now: datetime
) -> int:
    gone = [
        a
        for a in session.scalars(
            select(Annotation).where(
                Annotation.project_id == project_id,
                Annotation.ls_task_id == task.ls_task_id,
                Annotation.state != "deleted",
            )
        )
        if a.ls_annotation_id not in present
    ]
    for row in gone:
        row.state = "deleted"
        withdraw(session, blobs, row, now=now)
        events.record(
            session,
            project_id=project_id,
            actor="label-studio",
            what="annotation deleted",
            subject=f"annotation:{row.id}",
            after={"tile": row.tile_id},
        )
    return len(gone)


def _close(session: Session, project: Project, task: Task) -> None:
    """Set the task's and the entry's state by what the task's annotations say together.

    A tile that was labelled in part may have a later task, or be with a person: an earlier label that is changed then
    adds to what they will say. An earlier task left without a label is gone for us, so that the head drops it there,
    unless its tile is what is to be asked for.
    """
    session.flush()
    states = set(
        session.scalars(
            select(Annotation.state).where(
                Annotation.ls_task_id == task.ls_task_id, Annotation.project_id == project.id
            )
        )
    )
    other = tasks.beside(session, task)
    if states & {"present", "quarantined"}:
        task.state, entry = "labelled", "done"
    elif "skipped" in states:
        task.state, entry = "labelled", "skipped"
    elif other is None or (other.state != "live" and is_asked_for(session, project, task.tile_id)):
        task.state, entry = "live", "leased"
    else:
        task.state = "gone"
        return
    if other is not None and leases.with_person(session, project.id, task.tile_id):
        return
    queue.set_state(
        session, project, [task.tile_id], entry, holder=queue.IN_LABEL_STUDIO if entry == "leased" else None
    )


def mark_removed(database: Database, project_id: int, ls_task_ids: Sequence[int]) -> None:
    """Tasks deleted in Label Studio: their tiles may be asked for again; labels already given stay."""
    with database.transaction() as session:
        project = projects.get(session, project_id)
        for ls_task_id in ls_task_ids:
            task = tasks.by_ls_id(session, project_id, ls_task_id)
            if task is None or task.state == "gone":
                continue
            if task.state == "live":
                queue.set_state(session, project, [task.tile_id], "open")
            task.state = "gone"


def _person(completed_by: Any) -> int | None:
    """The annotator's id and nothing else: names and addresses stay in Label Studio."""
    value = completed_by.get("id") if isinstance(completed_by, dict) else completed_by
    return int(value) if isinstance(value, int) else None
