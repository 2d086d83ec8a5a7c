"""Answers to what the queue handed out: a mask, an artefact, cannot tell; and those that came too late."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.actions.answer_tile import Answer, answer_tile, take_back, use_draft
from backend.api.bearer import Annotator, Caller, Operator, Viewer
from backend.api.parts import parts_of
from backend.api.v1.problems import READS, WRITES
from backend.api.v1.queue import AttemptBody
from backend.api.v1.shapes import Page, Paging, PathId, ProjectKey, Shape, page_by_id
from backend.api.v1.writes import Conflicting, IdempotencyKey, once
from backend.clock import utc_now
from backend.store.tables import Annotation as AnnotationRow
from backend.store.tables import Project
from mpamatch.errors import BadInput, Conflict

router = APIRouter(prefix="/api/v1/projects/{key}/queue", tags=["queue"])

_VERSION = r"^[!-~]{1,100}$"


class SubmitBody(AttemptBody):
    """What is said of the tile, with the words that Label Studio's page has for it.

    `whole tile` and `only the boxes` need a ``mask``. With the boxes, what lies in a region of the lease counts, and
    wherever the mask differs from the suggestion that it was drawn on.
    """

    scope: Literal["whole tile", "only the boxes", "artefact", "cannot tell"]
    mask: str | None = Field(
        None, description="base64 of a PNG, indexed or 8-bit grey, of the picture's size: class ids, 255 says nothing"
    )
    shown_version: str | None = Field(
        None,
        pattern=_VERSION,
        description="the `model_version` whose suggestion it was drawn on; none: drawn from nothing",
    )
    seconds: float | None = Field(None, ge=0, le=1e6, description="how long it took")


class AnswerShape(Shape):
    """An answer that was kept. ``state``: `present` counts; a `draft` came too late, and ``problem`` says why."""

    id: int
    tile_id: int
    state: str
    scope: str | None
    problem: str | None
    by: str
    submitted_at: datetime


_LATE: Final[dict[int | str, dict[str, Any]]] = {
    409: {
        "description": "Too late: kept as a draft, whose number is in `draft`",
        "content": {"application/problem+json": {"schema": Conflicting.model_json_schema()}},
    }
}


@router.post("/{tile_id}/submit", responses={**WRITES, **_LATE}, response_model=AnswerShape)
def submit(
    request: Request,
    caller: Annotator,
    key: ProjectKey,
    tile_id: PathId,
    body: SubmitBody,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Your answer. 409 when it comes too late: it is kept as a draft, numbered in `draft`, and does not count."""
    parts, now = parts_of(request), utc_now()
    answer = Answer(body.scope, _png(body.mask), body.shown_version, body.seconds)

    def act(session: Session, project: Project) -> AnswerShape | Conflicting:
        row = answer_tile(
            session, parts.blobs, project, tile_id, answer, holder=caller.actor, attempt=body.attempt, now=now
        )
        return _late(row) if row.state == "draft" else _shape(row)

    return _once(request, caller, key, idempotency_key, body, act)


@router.get("/drafts", responses=READS)
def list_drafts(
    request: Request, caller: Viewer, key: ProjectKey, paging: Annotated[Paging, Query()]
) -> Page[AnswerShape]:
    """Answers that came too late and wait for a decision."""
    with parts_of(request).database.transaction() as session:
        query = select(AnnotationRow).where(
            AnnotationRow.project_id == caller.project(session, key).id, AnnotationRow.state == "draft"
        )
        rows, cursor = page_by_id(session, query, AnnotationRow.id, paging, "drafts")
        return Page(items=[_shape(row[0]) for row in rows], next_cursor=cursor)


@router.post("/drafts/{draft}/use", responses=WRITES, response_model=AnswerShape)
def use(
    request: Request, caller: Operator, key: ProjectKey, draft: PathId, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Let a draft count after all, as the newest word on its tile. 409 while somebody is at work on it."""
    parts, now = parts_of(request), utc_now()

    def act(session: Session, project: Project) -> AnswerShape:
        return _shape(use_draft(session, parts.blobs, project, draft, actor=caller.actor, now=now))

    return _once(request, caller, key, idempotency_key, None, act)


@router.post("/answers/{answer}/take-back", responses=WRITES, response_model=AnswerShape)
def take_back_answer(
    request: Request, caller: Annotator, key: ProjectKey, answer: PathId, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Take back what you submitted, or as an operator what anybody did here. Its tile is asked for again."""
    parts, now = parts_of(request), utc_now()

    def act(session: Session, project: Project) -> AnswerShape:
        row = take_back(session, parts.blobs, project, answer, actor=caller.actor, now=now)
        if row.holder != caller.actor and caller.role != "operator":
            raise Conflict(f"answer {answer}", "is another one's", "ask an operator")
        return _shape(row)

    return _once(request, caller, key, idempotency_key, None, act)


def _once(
    request: Request,
    caller: Caller,
    key: str,
    idempotency_key: str | None,
    body: SubmitBody | None,
    act: Callable[[Session, Project], AnswerShape | Conflicting],
) -> JSONResponse:
    """Act in one transaction, however often the request is sent, and then have the queue looked at."""
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = caller.project(session, key)
        project_id = project.id
        response = once(session, request, caller, idempotency_key, body, lambda: act(session, project), now=utc_now())
    parts.wakeups.sync(project_id)
    return response


def _png(mask: str | None) -> bytes | None:
    try:
        return None if mask is None else base64.b64decode(mask, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput("mask", "is no base64", "send the base64 of a PNG") from None


def _shape(row: AnnotationRow) -> AnswerShape:
    assert row.holder is not None
    return AnswerShape(
        id=row.id,
        tile_id=row.tile_id,
        state=row.state,
        scope=row.scope,
        problem=row.problem,
        by=row.holder,
        submitted_at=row.updated_at,
    )


def _late(row: AnnotationRow) -> Conflicting:
    return Conflicting(
        detail=f"{row.problem}: your answer is kept as draft {row.id} and does not count",
        item=f"tile {row.tile_id}",
        remedy="ask for another tile; an operator may let the draft count",
        draft=row.id,
    )
