"""One table from our errors to HTTP, as RFC 9457 problem details. What is not ours says nothing but its number."""

from __future__ import annotations

import logging
import uuid
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from mpamatch.errors import BadInput, Cancelled, Conflict, MpamatchError, NotFound, Unavailable

LOG = logging.getLogger("mpamatch.api")

STATUS: dict[type[MpamatchError], tuple[int, str]] = {
    BadInput: (422, "Bad input"),
    NotFound: (404, "Not found"),
    Conflict: (409, "Conflict"),
    Unavailable: (503, "Unavailable"),
    Cancelled: (409, "Cancelled"),
}

# What a ``responses`` entry says of a problem document in the schema.
DOCUMENT: Final[dict[str, Any]] = {
    "application/problem+json": {
        "schema": {
            "title": "Problem",
            "type": "object",
            "required": ["type", "title", "status", "detail"],
            "properties": {
                "type": {"type": "string"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "item": {"type": "string"},
                "remedy": {"type": "string"},
            },
        }
    }
}
# What a router's ``responses`` say of errors in the schema: any route may answer with a problem document.
PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    "4XX": {"description": "Refused", "content": DOCUMENT},
    "5XX": {"description": "Not possible now", "content": DOCUMENT},
}


def problem(status: int, title: str, detail: str, **more: str) -> JSONResponse:
    """One problem document."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, **more}
    return JSONResponse(body, status_code=status, media_type="application/problem+json")


def add_error_handlers(app: FastAPI) -> None:
    """Give every error one shape."""

    @app.exception_handler(MpamatchError)
    def ours(request: Request, error: MpamatchError) -> JSONResponse:
        status, title = next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), (500, "Error"))
        return problem(status, title, error.problem, item=error.item, remedy=error.remedy)

    @app.exception_handler(HTTPException)
    def http(request: Request, error: HTTPException) -> JSONResponse:
        response = problem(error.status_code, str(error.detail), str(error.detail))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        return problem(422, "Bad input", str(first["msg"]), item=place, remedy="see /openapi.json")

    @app.exception_handler(Exception)
    def unknown(request: Request, error: Exception) -> JSONResponse:
        number = uuid.uuid4().hex[:12]
        LOG.error("unexpected error=%s path=%s kind=%s", number, request.url.path, type(error).__name__, exc_info=error)
        return problem(500, "Unexpected error", f"see the log for {number}")
