"""Projects, whose token this is, and how the installation is."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Query, Request
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.api.bearer import Viewer
from backend.api.parts import parts_of
from backend.api.v1.problems import READS
from backend.api.v1.shapes import Page, Paging, ProjectKey, Shape, page_by_id
from backend.store import images, leases, projects, runs, tokens
from backend.store.tables import Model, Project
from backend.store.tables import Token as TokenRow

router = APIRouter(prefix="/api/v1", tags=["projects"], responses=READS)


class ClassShape(Shape):
    id: int
    name: str
    colour: str


class ProjectShape(Shape):
    """A project as a program sees it; its connection and credentials are not part of it."""

    key: str
    title: str
    classes: list[ClassShape]
    label_type: str
    champion: str | None
    label_studio_project: int | None
    created_at: datetime


class ProjectStatus(Shape):
    """Counts of one project at one moment.

    ``run_requested`` and ``adaptation_requested``: somebody asked for a training, or for an adaptation, and no run was
    opened for it yet.
    """

    project: str
    champion: str | None
    images: int
    quarantined: int
    train_tiles: int
    audit_tiles: int
    queue: dict[str, int]
    open_run: int | None
    run_requested: bool
    adaptation_requested: bool


class StatusShape(Shape):
    version: str
    projects: list[ProjectStatus]


class TokenShape(Shape):
    """The token of this request."""

    key_id: str
    name: str
    role: tokens.Role
    project: str | None
    expires_at: datetime | None


@router.get("/token")
def token(request: Request, caller: Viewer) -> TokenShape:
    """What the token that you sent is and may do."""
    with parts_of(request).database.transaction() as session:
        row = session.get_one(TokenRow, caller.token_id)
        project = None if row.project_id is None else projects.get(session, row.project_id).key
        return TokenShape(
            key_id=row.key_id, name=row.name, role=caller.role, project=project, expires_at=row.expires_at
        )


@router.get("/status")
def status(request: Request, caller: Viewer) -> StatusShape:
    """Every project that this token may see, in numbers."""
    with parts_of(request).database.transaction() as session:
        seen = [p for p in projects.all_of(session) if caller.sees(p)]
        return StatusShape(version=version("mpamatch"), projects=[_status(session, p) for p in seen])


@router.get("/projects")
def list_projects(request: Request, caller: Viewer, paging: Annotated[Paging, Query()]) -> Page[ProjectShape]:
    """The projects that this token may see."""
    query = select(Project, Model.version).outerjoin(Model, Model.id == Project.champion_id)
    if caller.project_id is not None:
        query = query.where(Project.id == caller.project_id)
    with parts_of(request).database.transaction() as session:
        rows, cursor = page_by_id(session, query, Project.id, paging, "projects")
        return Page(items=[_shape(*row) for row in rows], next_cursor=cursor)


@router.get("/projects/{key}")
def show_project(request: Request, caller: Viewer, key: ProjectKey) -> ProjectShape:
    """One project."""
    with parts_of(request).database.transaction() as session:
        project = caller.project(session, key)
        return _shape(project, _champion(session, project))


def _champion(session: Session, project: Project) -> str | None:
    return session.scalar(select(Model.version).where(Model.id == project.champion_id))


def _shape(project: Project, champion: str | None) -> ProjectShape:
    classes = projects.classes_of(project)
    return ProjectShape(
        key=project.key,
        title=project.title,
        classes=[ClassShape(id=c.id, name=c.name, colour=c.colour) for c in classes.classes],
        label_type=project.label_type,
        champion=champion,
        label_studio_project=project.ls_project_id,
        created_at=project.created_at,
    )


def _status(session: Session, project: Project) -> ProjectStatus:
    run = runs.open_run(session, project.id)
    return ProjectStatus(
        project=project.key,
        champion=_champion(session, project),
        **images.counts(session, project.id),
        queue=leases.counts(session, project),
        open_run=None if run is None else run.number,
        run_requested=project.requested_run is not None,
        adaptation_requested=project.requested_adaptation,
    )
