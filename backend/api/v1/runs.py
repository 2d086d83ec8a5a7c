"""Runs: looking, asking for one, stopping one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from sqlalchemy import select

from backend.actions.cancel_run import cancel_run
from backend.actions.open_run import request_adaptation, request_run
from backend.api.bearer import Operator, Viewer
from backend.api.parts import parts_of
from backend.api.v1.problems import READS, WRITES
from backend.api.v1.shapes import Body, Page, Paging, PathId, ProjectKey, Shape, page_by_id
from backend.api.v1.writes import IdempotencyKey, once
from backend.clock import utc_now
from backend.store import runs
from backend.store.tables import Run

router = APIRouter(prefix="/api/v1/projects/{key}/runs", tags=["runs"])


class RunShape(Shape):
    """``step`` of ``steps`` and ``eta_s`` while it trains; ``metrics`` once it has a model.

    One whose ``trigger`` is ``adapt`` learns no label: ``adapted`` in its metrics says from which version, over how
    many images.
    """

    number: int
    state: str
    trigger: str
    reasons: list[str]
    version: str
    recipe_hash: str
    step: int | None
    steps: int | None
    eta_s: float | None
    cancel_requested: bool
    problem: str | None
    metrics: dict[str, Any] | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class StartBody(Body):
    """``adapt``: no training; the champion's norms are adapted to the pool, and the gate judges what comes out."""

    adapt: bool = False


class RunRequested(Shape):
    """The request is taken by the next decision; ``open_run`` goes on before it."""

    requested: bool
    open_run: int | None


class RunFilters(Paging):
    state: Literal["queued", "training", "judging", "done", "failed", "cancelled"] | None = None
    trigger: Literal["labels", "manual", "label-studio", "schedule", "adapt"] | None = None


@router.get("", responses=READS)
def list_runs(
    request: Request, caller: Viewer, key: ProjectKey, filters: Annotated[RunFilters, Query()]
) -> Page[RunShape]:
    """The runs of a project, the oldest first."""
    with parts_of(request).database.transaction() as session:
        query = select(Run).where(Run.project_id == caller.project(session, key).id)
        if filters.state is not None:
            query = query.where(Run.state == filters.state)
        if filters.trigger is not None:
            query = query.where(Run.trigger == filters.trigger)
        rows, cursor = page_by_id(session, query, Run.id, filters, "runs")
        return Page(items=[_run(row[0]) for row in rows], next_cursor=cursor)


@router.get("/{number}", responses=READS)
def show_run(request: Request, caller: Viewer, key: ProjectKey, number: PathId) -> RunShape:
    """One run."""
    with parts_of(request).database.transaction() as session:
        return _run(runs.by_number(session, caller.project(session, key).id, number))


@router.post("", responses=WRITES, response_model=RunRequested, status_code=202)
def start(
    request: Request,
    caller: Operator,
    key: ProjectKey,
    body: StartBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Ask for a run now; while one is open the request waits for its end.

    409 for an adaptation that cannot be, or that the gate could not judge.
    """
    parts, now = parts_of(request), utc_now()
    with parts.database.transaction() as session:
        project = caller.project(session, key)
        project_id = project.id

        def act() -> RunRequested:
            if body is not None and body.adapt:
                request_adaptation(session, project, actor=caller.actor)
            else:
                request_run(session, project, by="manual", actor=caller.actor)
            open_run = runs.open_run(session, project.id)
            return RunRequested(requested=True, open_run=None if open_run is None else open_run.number)

        response = once(session, request, caller, idempotency_key, body, act, now=now, status=202)
    parts.wakeups.sync(project_id)
    return response


@router.post("/{number}/cancel", responses=WRITES, response_model=RunShape)
def cancel(
    request: Request, caller: Operator, key: ProjectKey, number: PathId, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Stop a run: the champion stays, and its labels count again. 409 when it is over."""
    parts, now = parts_of(request), utc_now()
    with parts.database.transaction() as session:
        project = caller.project(session, key)

        def act() -> RunShape:
            return _run(cancel_run(session, project, number, now=now, actor=caller.actor))

        response = once(session, request, caller, idempotency_key, None, act, now=now)
    parts.wakeups.train()
    return response


def _run(row: Run) -> RunShape:
    progress = row.progress or {}
    return RunShape(
        number=row.number,
        state=row.state,
        trigger=row.trigger,
        reasons=[str(reason) for reason in row.reasons],
        version=row.version,
        recipe_hash=row.recipe_hash,
        step=progress.get("step"),
        steps=progress.get("steps"),
        eta_s=progress.get("eta_s"),
        cancel_requested=row.cancel_requested,
        problem=row.problem,
        metrics=row.metrics,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
