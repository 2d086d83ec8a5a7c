"""The queue as a whole: how far the labelling is, and the order for other programs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from starlette.responses import StreamingResponse

from backend.actions.export_queue import Form, begin_export, written
from backend.actions.see_progress import see_progress
from backend.api.bearer import Viewer
from backend.api.parts import parts_of
from backend.api.v1.problems import READS
from backend.api.v1.shapes import Id, ProjectKey, Shape
from backend.clock import utc_now

router = APIRouter(prefix="/api/v1/projects/{key}/queue", tags=["queue"], responses=READS)

MEDIA_TYPES: Final[dict[Form, str]] = {"csv": "text/csv; charset=utf-8", "geojson": "application/geo+json"}
_EXPORTED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The order, piece by piece",
        "content": {
            "text/csv": {"schema": {"type": "string"}},
            "application/geo+json": {"schema": {"type": "object"}},
        },
    }
}


class WorkedShape(Shape):
    """``annotator``: a user's number in Label Studio; ``holder``: the token or command that took tiles from here."""

    annotator: int | None
    holder: str | None
    labelled: int
    skipped: int
    today: int
    last_at: datetime


class ProgressShape(Shape):
    """Counts of tiles; ``waiting`` holds ``held`` (with people who took them here) and ``in_label_studio``.

    ``labelled`` holds what nobody could tell; ``artefacts`` are marked so now. ``today`` began at ``today_since``,
    midnight in the time zone of the project's schedule, of UTC without one.
    """

    waiting: int
    held: int
    in_label_studio: int
    labelled: int
    artefacts: int
    cannot_tell: int
    skipped: int
    drafts: int
    today: int
    today_since: datetime
    by: list[WorkedShape]


@router.get("/progress")
def progress(request: Request, caller: Viewer, key: ProjectKey) -> ProgressShape:
    """What waits, what was answered, how much of it today, and by whom."""
    with parts_of(request).database.transaction() as session:
        return ProgressShape.model_validate(see_progress(session, caller.project(session, key), now=utc_now()))


@router.get("/export", response_class=StreamingResponse, responses=_EXPORTED)
def export(
    request: Request,
    caller: Viewer,
    key: ProjectKey,
    form: Annotated[Form, Query(alias="format", description="csv: a line per region; geojson: a feature")] = "csv",
    image_id: Annotated[Id | None, Query(description="of one image only, as QuPath reads it")] = None,
    every_state: Annotated[bool, Query(description="what was labelled or left out too")] = False,
) -> StreamingResponse:
    """The live order with its regions in level-0 pixels, factors and reasons; what waits, if nothing else is said."""
    database = parts_of(request).database
    with database.transaction() as session:
        project = caller.project(session, key)
        project_id, name = project.id, f"queue-{project.key}.{form}"
    begun = begin_export(database, project_id, image_id=image_id, every_state=every_state)
    return StreamingResponse(
        written(database, begun, form),
        media_type=MEDIA_TYPES[form],
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
