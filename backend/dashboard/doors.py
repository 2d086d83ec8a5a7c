"""Signing in and out, and the few things that may be changed from here. The guard has checked form and session."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from backend.actions.cancel_run import cancel_run
from backend.actions.change_champion import rollback
from backend.actions.open_run import request_adaptation, request_run
from backend.clock import utc_now
from backend.dashboard.guard import local_path
from backend.dashboard.parts import chosen, page, parts_of, place_of

ACTOR = "dashboard"


def login_page(request: Request) -> Response:
    """The form; at once further for who is signed in already."""
    wanted = local_path(request.query_params.get("next"))
    if request.scope["state"]["session"] is not None:
        return RedirectResponse(wanted, status_code=303)
    return page(request, "login.html", {"wanted": wanted, "problem": ""})


def login(request: Request) -> Response:
    """A session for the right token."""
    parts, form, now = parts_of(request), request.scope["state"]["form"], utc_now()
    wanted = local_path(form.get("next"))
    address = request.client.host if request.client else "unknown"
    if parts.access.must_wait(address, now=now):
        problem = "Too many wrong tokens. Wait a minute, then try again."
        return page(request, "login.html", {"wanted": wanted, "problem": problem}, status=429)
    cookie = parts.access.sign_in(form.get("token", ""), address=address, now=now)
    if cookie is None:
        problem = "This token is not the right one."
        return page(request, "login.html", {"wanted": wanted, "problem": problem}, status=403)
    response = RedirectResponse(wanted, status_code=303)
    response.set_cookie(
        parts.access.cookie,
        cookie,
        max_age=parts.access.seconds,
        path="/",
        httponly=True,
        samesite="strict",
        secure=_secure(request),
    )
    return response


def logout(request: Request) -> Response:
    """End the session here and forget it there."""
    parts, session = parts_of(request), request.scope["state"]["session"]
    if session is not None:
        parts.access.sign_out(session, now=utc_now())
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(parts.access.cookie, path="/", httponly=True, samesite="strict", secure=_secure(request))
    return response


def start_run(request: Request) -> Response:
    """Ask for a run now; while one is open the request waits for its end."""
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = chosen(session, request)
        request_run(session, project, by="manual")
        project_id, path = project.id, place_of(request, project).path
    parts.wakeups.sync(project_id)
    return RedirectResponse(path, status_code=303)


def adapt(request: Request) -> Response:
    """Ask for the champion's norms to be adapted to the pool. Raises Conflict where that could not be judged."""
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = chosen(session, request)
        request_adaptation(session, project)
        project_id, path = project.id, place_of(request, project).path
    parts.wakeups.sync(project_id)
    return RedirectResponse(path, status_code=303)


def stop_run(request: Request) -> Response:
    """Stop one run. Raises Conflict when it is over."""
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = chosen(session, request)
        run = cancel_run(session, project, request.path_params["number"], actor=ACTOR, now=utc_now())
        path = f"{place_of(request, project).path}/runs/{run.number}"
    parts.wakeups.train()
    return RedirectResponse(path, status_code=303)


def roll_back(request: Request) -> Response:
    """Let the champion before this one serve again, if the page that was pressed on still tells the truth."""
    parts, form = parts_of(request), request.scope["state"]["form"]
    with parts.database.transaction() as session:
        project = chosen(session, request)
        rollback(session, project, to_version=form.get("to") or None, actor=ACTOR, now=utc_now())
        project_id, path = project.id, place_of(request, project).path
    parts.wakeups.predict()
    parts.wakeups.sync(project_id, full=True)
    return RedirectResponse(path, status_code=303)


def _secure(request: Request) -> bool:
    public = parts_of(request).settings.public_url or ""
    return request.url.scheme == "https" or public.startswith("https:")
