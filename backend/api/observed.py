"""What is noted of every request: an id, one log line and a figure, by the route's template and never by the address.

An address may hold a tile's signature; a template (`/tiles/{tile_id}.png`) cannot, and there are few of them, so that
figures stay bounded whatever is asked for.
"""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.logs import REQUEST_ID

LOG = logging.getLogger("mpamatch.access")
REQUEST_ID_HEADER = "X-Request-ID"
UNMATCHED = "unmatched"
# Asked every few seconds by machines: their lines would hide the others.
QUIET = ("/health", "/health/live", "/health/ready", "/metrics", "/ml/{key}/health")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# The names that routes give to ids; a project is known by its key.
_IDS = {"key": "project", "tile_id": "tile", "number": "run"}
_GIVEN_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")

# (method, route, status, seconds)
Note = Callable[[str, str, int, float], None]


class Observed:
    """Around an application: `note` is told of every answer. Starting and stopping pass through."""

    def __init__(self, app: ASGIApp, *, note: Note) -> None:
        self.app = app
        self._note = note

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.monotonic()
        request_id = _request_id(Headers(scope=scope).get(REQUEST_ID_HEADER))
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID_HEADER] = request_id
            await send(message)

        token = REQUEST_ID.set(request_id)
        try:
            await self.app(scope, receive, sending)
        finally:
            self._tell(scope, status, time.monotonic() - began)
            REQUEST_ID.reset(token)

    def _tell(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        route = route_of(scope)
        self._note(method, route, status, seconds)
        level = logging.DEBUG if route in QUIET and status < 400 else logging.INFO
        fields = {"method": method, "route": route, "status": status, "ms": round(seconds * 1000, 1), **ids_of(scope)}
        LOG.log(level, "%s %s %s in %.1f ms", method, route, status, seconds * 1000, extra=fields)


def route_of(scope: Scope) -> str:
    """The template of the route that answered; `unmatched` where none did."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else UNMATCHED


def ids_of(scope: Scope) -> dict[str, Any]:
    """The rows that the address names; numbers as numbers, whether the framework has read them as such or not."""
    given = {word: str(value) for word, value in (scope.get("path_params") or {}).items()}
    named = {name: given[word] for word, name in _IDS.items() if word in given and len(given[word]) <= 64}
    return {name: int(word) if word.isdecimal() else word for name, word in named.items()}


def _request_id(given: str | None) -> str:
    """The caller's, so that a line of a proxy and one of ours meet; a new one for none or an odd one."""
    return given if given is not None and _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
