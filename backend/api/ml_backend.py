"""Label Studio's ML backend protocol, spoken natively: health, setup, predict, train, webhook, versions.

Nothing here computes: predictions are stored rows, and a webhook is written down, committed and acknowledged.
"""

from __future__ import annotations

import json
import logging
import time
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from backend.actions import open_run, show_tile
from backend.api.auth import require_basic, require_webhook
from backend.api.errors import PROBLEMS
from backend.api.limits import MB
from backend.api.parts import Parts, parts_of
from backend.clock import utc_now
from backend.labelstudio.controls import Controls
from backend.labelstudio.payloads import load_json, parse_webhook, redact
from backend.store import images, inbox, models, predictions, projects, queue, tasks
from backend.store.tables import Project
from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput, NotFound

LOG = logging.getLogger("mpamatch.predict")

router = APIRouter(prefix="/ml/{key}", tags=["label studio"], responses=PROBLEMS)

# Bodies are read by hand, within limits of our own; the schema says only that there is one.
BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
}

POLL_S = 0.25
# Our own imports and version switches come back as webhooks; these actions are the ones that tell us something.
HEARD = frozenset(
    {
        "ANNOTATION_CREATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_DELETED",
        "TASKS_CREATED",
        "TASKS_DELETED",
    }
)


@router.get("/health")
def health(request: Request, key: str) -> dict[str, str]:
    """Asked by Label Studio before every setup."""
    _open(request, key)
    return {"status": "UP"}


@router.post("/setup")
def setup(request: Request, key: str) -> dict[str, str]:
    """The version that the shown predictions carry: the same string in both, or duplicates pile up."""
    return {"model_version": _open(request, key)[1]}


@router.get("/versions")
def versions(request: Request, key: str) -> dict[str, list[str]]:
    """Every version of this project's models, the newest first."""
    project, _ = _open(request, key)
    with parts_of(request).database.transaction() as session:
        return {"versions": [m.version for m in reversed(models.all_of(session, project.id))]}


@router.post("/predict", response_model=None, openapi_extra=BODY)
async def predict(request: Request, key: str) -> JSONResponse:
    """Stored predictions for the tasks; what is missing is asked for, awaited a while, then left empty."""
    body = await _json(request)
    # A response of our own: the framework's encoder would walk through every number of every mask.
    return JSONResponse(await run_in_threadpool(_predict, request, key, body))


@router.post("/train")
async def train(request: Request, key: str) -> dict[str, str]:
    """Some clients ask for training here; Label Studio itself sends START_TRAINING to the webhook."""
    return await run_in_threadpool(_start_training, request, key)


@router.post("/webhook", openapi_extra=BODY)
async def webhook(request: Request, key: str) -> dict[str, str]:
    """Durable first, then acknowledged. A delivery that came before is acknowledged and changes nothing."""
    try:
        body = load_json(await request.body(), max_bytes=parts_of(request).settings.body_limit_mb * MB)
    except BadInput as error:
        raise HTTPException(400, f"the body {error.problem}") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return await run_in_threadpool(_receive, request, key, body)


def _receive(request: Request, key: str, body: dict[str, Any]) -> dict[str, str]:
    if body.get("action") == "START_TRAINING":
        return _start_training(request, key)
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = projects.choose(session, key)
        require_webhook(request, project, parts.keys)
        event = parse_webhook(body)
        if event.project_id is not None and event.project_id != project.ls_project_id:
            raise BadInput("webhook", f"speaks of project {event.project_id}", "point it at its own project's address")
        if event.action not in HEARD or _our_own_tasks(body):
            return {"status": "nothing to do"}
        full = event.action == "TASKS_CREATED"
        # One wake-up takes in all that waits: a storm of deliveries must not become a storm of messages.
        wake = full or not inbox.any_waiting(session, project.id)
        new = inbox.keep(
            session, project_id=project.id, dedupe_key=event.dedupe_key, action=event.action, payload=redact(body)
        )
        project_id = project.id
    if new and wake:
        parts.wakeups.sync(project_id, full=full)
    return {"status": "kept" if new else "known"}


def _our_own_tasks(body: dict[str, Any]) -> bool:
    """Whether the event only tells of tasks that we imported ourselves."""
    made = body.get("tasks")
    if body.get("action") != "TASKS_CREATED" or not isinstance(made, list):
        return False
    return all(isinstance(t, dict) and (t.get("data") or {}).get("tile_id") for t in made)


def _start_training(request: Request, key: str) -> dict[str, str]:
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = projects.choose(session, key)
        require_webhook(request, project, parts.keys)
        open_run.request_run(session, project, by="label-studio")
        project_id = project.id
    parts.wakeups.sync(project_id)
    return {"status": "requested"}


def _predict(request: Request, key: str, body: dict[str, Any]) -> dict[str, Any]:
    parts = parts_of(request)
    project, version = _open(request, key)
    asked = body.get("tasks")
    if not isinstance(asked, list) or not all(isinstance(t, dict) for t in asked):
        raise BadInput("predict", "has no list of tasks", "send the body that Label Studio sends")
    tile_ids = _tiles_of(parts, project, asked)
    known = sorted({t for t in tile_ids if t is not None})
    _await_predictions(parts, project.id, version, known)
    answers = _answers(parts, project.id, version, known)
    empty: dict[str, Any] = {"result": [], "score": None, "model_version": version}
    return {"results": [answers.get(t, empty) if t is not None else empty for t in tile_ids], "model_version": version}


def _answers(parts: Parts, project_id: int, version: str, tile_ids: list[int]) -> dict[int, dict[str, Any]]:
    with parts.database.transaction() as session:
        project = projects.get(session, project_id)
        classes = projects.classes_of(project)
        shown = show_tile.read_shown(session, project, version, tile_ids)
        size = queue.size(session, project)
        ranks = {t: e.rank for t, e in queue.of_tiles(session, project, tile_ids).items()}
    return {
        tile_id: {
            "result": _result_of(parts, s, classes, project),
            "score": show_tile.score_of(ranks[tile_id], size) if tile_id in ranks else None,
            "model_version": version,
        }
        for tile_id, s in shown.items()
    }


def _result_of(parts: Parts, shown: show_tile.Shown, classes: ClassSet, project: Project) -> list[dict[str, Any]]:
    """A tile's result; an empty one where it cannot be shown, which must not cost the others their answer."""
    try:
        result = show_tile.result_of(parts.blobs, shown, classes, project.label_type)
        return Controls.from_json(project.ls_controls).worded(result)
    except (BadInput, NotFound) as error:
        LOG.warning("project=%s tile=%s answered empty: %s", project.id, shown.tile_id, error)
        return []


def _await_predictions(parts: Parts, project_id: int, version: str, tile_ids: list[int]) -> None:
    """Let what is missing jump the line, and wait for it, but not longer than a person would."""
    deadline = time.monotonic() + parts.settings.predict_wait_s
    asked = False
    while True:
        with parts.database.transaction() as session:
            missing = set(tile_ids) - set(predictions.by_version(session, project_id, version, tile_ids))
            if missing and not asked:
                images.want(session, missing, now=utc_now())
        if not missing or time.monotonic() >= deadline:
            return
        if not asked:
            parts.wakeups.predict()
            asked = True
        time.sleep(POLL_S)


def _tiles_of(parts: Parts, project: Project, asked: list[dict[str, Any]]) -> list[int | None]:
    """Our tiles behind some tasks: by our own rows for them, never by what the request says of itself."""
    numbers = [t.get("id") for t in asked]
    valid = {n for n in numbers if type(n) is int and 0 < n < 1 << 63}
    with parts.database.transaction() as session:
        known = tasks.tiles_by_ls_id(session, project.id, valid)
    return [known.get(n) if type(n) is int else None for n in numbers]


def _open(request: Request, key: str) -> tuple[Project, str]:
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = projects.choose(session, key)
        require_basic(request, project, parts.keys)
        return project, project.ls_model_version or projects.champion(session, project).version


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise HTTPException(400, "the body is not JSON") from None
    if not isinstance(body, dict):
        raise HTTPException(400, "the body is not a JSON object")
    return body
