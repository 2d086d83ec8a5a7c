"""Models: versions with their verdicts, and going back to an earlier champion."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy import select

from backend.actions.change_champion import rollback
from backend.api.bearer import Operator, Viewer
from backend.api.parts import parts_of
from backend.api.v1.problems import READS, WRITES
from backend.api.v1.shapes import Body, Page, Paging, ProjectKey, Shape, page_by_id
from backend.api.v1.writes import IdempotencyKey, once
from backend.clock import utc_now
from backend.store import models
from backend.store.tables import Model

router = APIRouter(prefix="/api/v1/projects/{key}/models", tags=["models"])
_VERSION = r"^[!-~]{1,100}$"


class ModelShape(Shape):
    version: str
    kind: str
    state: str
    provisional: bool
    verdict: dict[str, Any] | None
    metrics: dict[str, Any] | None
    created_at: datetime
    promoted_at: datetime | None


class RollbackBody(Body):
    to: str | None = Field(None, pattern=_VERSION, description="version to return to; none: the champion before")


class ModelFilters(Paging):
    state: Literal["candidate", "champion", "retired", "rejected"] | None = None
    kind: Literal["blank", "starter", "trained"] | None = None


@router.get("", responses=READS)
def list_models(
    request: Request, caller: Viewer, key: ProjectKey, filters: Annotated[ModelFilters, Query()]
) -> Page[ModelShape]:
    """The models of a project, the oldest first."""
    with parts_of(request).database.transaction() as session:
        query = select(Model).where(Model.project_id == caller.project(session, key).id)
        if filters.state is not None:
            query = query.where(Model.state == filters.state)
        if filters.kind is not None:
            query = query.where(Model.kind == filters.kind)
        rows, cursor = page_by_id(session, query, Model.id, filters, "models")
        return Page(items=[ModelShape.model_validate(row[0]) for row in rows], next_cursor=cursor)


@router.get("/{version}", responses=READS)
def show_model(
    request: Request, caller: Viewer, key: ProjectKey, version: Annotated[str, Path(pattern=_VERSION)]
) -> ModelShape:
    """One model with its verdict, figures and reasons."""
    with parts_of(request).database.transaction() as session:
        return ModelShape.model_validate(models.by_version(session, caller.project(session, key).id, version))


@router.post("/rollback", responses=WRITES, response_model=ModelShape)
def roll_back(
    request: Request, caller: Operator, key: ProjectKey, body: RollbackBody, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Let an earlier champion serve again; it is the answer."""
    parts, now = parts_of(request), utc_now()
    with parts.database.transaction() as session:
        project = caller.project(session, key)
        project_id = project.id

        def act() -> ModelShape:
            model = rollback(session, project, to_version=body.to, actor=caller.actor, now=now)
            session.flush()
            return ModelShape.model_validate(model)

        response = once(session, request, caller, idempotency_key, body, act, now=now)
    parts.wakeups.predict()
    parts.wakeups.sync(project_id, full=True)
    return response
