"""The dashboard as an ASGI application on connections that are open already."""

from __future__ import annotations

import logging
import uuid

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from backend.credentials import ensure_dashboard_token
from backend.dashboard import doors, knowing, pages, tile_pictures
from backend.dashboard.access import Access
from backend.dashboard.assets import Assets
from backend.dashboard.guard import Guard, Refusal
from backend.dashboard.parts import Parts, page, template_environment
from backend.settings import Settings
from backend.store.blobs import BlobStore
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.wakeups import Wakeups
from mpamatch.errors import BadInput, Conflict, MpamatchError, NotFound, Unavailable

LOG = logging.getLogger("mpamatch.dashboard")

TITLES: dict[type[MpamatchError], tuple[int, str]] = {
    BadInput: (422, "That cannot be used"),
    NotFound: (404, "Not found"),
    Conflict: (409, "Not possible now"),
    Unavailable: (503, "Not available now"),
}
_WORDS = {404: "Not found", 405: "Not possible here", 403: "Not allowed"}
# Every address of a page begins with one of these; the first page is `/` itself.
PREFIXES = ("/login", "/logout", "/projects", "/assets")


def owns(path: str) -> bool:
    """Whether an address is the dashboard's."""
    return path == "/" or any(path == prefix or path.startswith(f"{prefix}/") for prefix in PREFIXES)


def create_dashboard(
    *, settings: Settings, database: Database, blobs: BlobStore, keys: KeyRing, wakeups: Wakeups
) -> ASGIApp:
    """Pages behind their guard. Makes the operator's token when there is none yet."""
    assets = Assets()
    token = ensure_dashboard_token(settings.state)
    access = Access(keys, token, database=database, hours=settings.session_hours)
    project, tile = "/projects/{key}", "/projects/{key}/tiles/{tile_id:int}"
    app = Starlette(
        routes=[
            Route("/", pages.first),
            Route("/login", doors.login_page),
            Route("/login", doors.login, methods=["POST"]),
            Route("/logout", doors.logout, methods=["POST"]),
            Route("/assets/{name}", assets.serve),
            Route("/projects", pages.first),
            Route(project, pages.ring),
            Route(f"{project}/queue", pages.queue),
            Route(f"{project}/runs", pages.runs),
            Route(f"{project}/runs/{{number:int}}", pages.run),
            Route(f"{project}/runs/{{number:int}}/curves.png", tile_pictures.curves),
            Route(f"{project}/people", pages.people),
            Route(f"{project}/audit", knowing.audit),
            Route(f"{project}/images/{{image_id:int}}", pages.image),
            Route(tile, pages.tile),
            Route(f"{tile}/picture.png", tile_pictures.picture),
            Route(f"{tile}/small.jpg", tile_pictures.small),
            Route(f"{tile}/prediction.png", tile_pictures.prediction),
            Route(f"{tile}/mask.png", tile_pictures.mask),
            Route(f"{tile}/uncertainty.png", tile_pictures.uncertainty),
            Route(f"{tile}/uncertainty-small.png", tile_pictures.small_uncertainty),
            Route(f"{project}/runs/start", doors.start_run, methods=["POST"]),
            Route(f"{project}/runs/adapt", doors.adapt, methods=["POST"]),
            Route(f"{project}/runs/{{number:int}}/stop", doors.stop_run, methods=["POST"]),
            Route(f"{project}/models/rollback", doors.roll_back, methods=["POST"]),
        ],
        exception_handlers={MpamatchError: _ours, HTTPException: _http, Exception: _unknown},
    )
    app.state.parts = Parts(
        settings=settings,
        database=database,
        blobs=blobs,
        wakeups=wakeups,
        access=access,
        assets=assets,
        templates=template_environment(assets),
    )

    def refuse(request: Request, refusal: Refusal) -> Response:
        request.scope["app"] = app
        return _problem(request, refusal.status, refusal.title, refusal.text, refusal.remedy)

    def come_again(request: Request) -> Response:
        request.scope["app"] = app
        again = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return page(request, "come_again.html", {"again": again})

    return Guard(
        app,
        access=access,
        public_url=settings.public_url,
        hosts=settings.host_names,
        refuse=refuse,
        come_again=come_again,
    )


def _problem(request: Request, status: int, title: str, text: str, remedy: str = "") -> Response:
    return page(request, "problem.html", {"title": title, "text": text, "remedy": remedy}, status=status)


def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, MpamatchError)
    status, title = next((TITLES[kind] for kind in type(error).__mro__ if kind in TITLES), (500, "Error"))
    return _problem(request, status, title, f"{error.item}: {error.problem}", error.remedy)


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = _WORDS.get(error.status_code, "Not possible")
    response = _problem(request, error.status_code, title, str(error.detail))
    response.headers.update(error.headers or {})
    return response


def _unknown(request: Request, error: Exception) -> Response:
    number = uuid.uuid4().hex[:12]
    LOG.error("unexpected error=%s path=%s kind=%s", number, request.url.path, type(error).__name__, exc_info=error)
    return _problem(request, 500, "Unexpected error", f"Something went wrong here; the log has it as {number}.")
