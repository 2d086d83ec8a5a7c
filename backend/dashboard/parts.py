"""What every page needs, made once and passed along: no globals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from sqlalchemy.orm import Session as DatabaseSession
from starlette.requests import Request
from starlette.responses import HTMLResponse

from backend.clock import utc_now
from backend.dashboard import words
from backend.dashboard.access import Access
from backend.dashboard.assets import Assets
from backend.dashboard.stations import short
from backend.dashboard.told import Knowing
from backend.dashboard.trouble import LabelStudioWatch
from backend.settings import Settings
from backend.store import projects
from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from backend.store.tables import Project
from backend.wakeups import Wakeups


def template_environment(assets: Assets) -> Environment:
    """Everything that a template prints is text, whatever the file's name; a missing name is an error."""
    made = Environment(
        loader=PackageLoader("backend.dashboard"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("count", "share", "figure", "signed", "lasting", "instant", "ago"):
        made.filters[name] = getattr(words, name)
    made.filters["short"] = short
    made.globals.update(
        plural=words.plural,
        strata=words.STRATA,
        places=words.PLACES,
        triggers=words.TRIGGERS,
        figures=words.FIGURES,
        origins=words.ORIGINS,
        loss_names=words.LOSSES,
        asset=assets.address,
    )
    return made


@dataclass(frozen=True)
class Parts:
    """The dashboard's connections."""

    settings: Settings
    database: Database
    blobs: BlobStore
    wakeups: Wakeups
    access: Access
    assets: Assets
    templates: Environment
    watch: LabelStudioWatch = field(default_factory=LabelStudioWatch)
    knowing: Knowing = field(default_factory=Knowing)


@dataclass(frozen=True)
class Place:
    """The project that a page belongs to, as the frame around it shows it."""

    key: str
    title: str
    label_studio: str | None

    @property
    def path(self) -> str:
        return f"/projects/{self.key}"

    def task(self, number: int) -> str | None:
        """The address of a task in Label Studio."""
        return None if self.label_studio is None else f"{self.label_studio}?task={number}"


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts


def place_of(request: Request, project: Project) -> Place:
    """With the project's address in Label Studio as browsers know it, when that is an address of the web at all.

    One that was adopted from another server is there, whatever our own is called.
    """
    ours = None if project.ls_elsewhere else parts_of(request).settings.label_studio_public_url
    url = None if project.ls_url is None else ours or project.ls_url
    fine = url is not None and urlsplit(url).scheme in ("http", "https") and project.ls_project_id is not None
    label_studio = f"{str(url).rstrip('/')}/projects/{project.ls_project_id}/data" if fine else None
    return Place(project.key, project.title, label_studio)


def chosen(session: DatabaseSession, request: Request) -> Project:
    """The project of the address. Raises NotFound."""
    return projects.choose(session, request.path_params["key"])


def page(
    request: Request, template: str, values: Mapping[str, Any] | None = None, *, status: int = 200
) -> HTMLResponse:
    """One rendered page with what its frame needs."""
    parts = parts_of(request)
    session = request.scope["state"]["session"]
    now: datetime = utc_now()
    text = parts.templates.get_template(template).render(
        {
            "now": now,
            "here": request.url.path,
            "signed_in": session is not None,
            "form_token": "" if session is None else parts.access.form_token(session),
            "refresh_s": None,
            "place": None,
            **(values or {}),
        }
    )
    return HTMLResponse(text, status_code=status)
