"""How the schema tells of errors: every one is a problem document (RFC 9457), as `backend.api.errors` makes it."""

from __future__ import annotations

from typing import Any, Final

from backend.api.errors import DOCUMENT

_TITLES: Final = {
    400: "Not to be read",
    401: "No valid token",
    403: "Not allowed for this role",
    404: "No such thing, or not for this token",
    409: "Somebody was first, or the state forbids it",
    413: "Body too large",
    422: "Bad input",
    503: "The database does not answer",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Entries for a route's ``responses``; 401, 403, 422 and 503 may come from every route."""
    every = sorted({401, 403, 422, 503, *statuses})
    return {status: {"description": _TITLES[status], "content": DOCUMENT} for status in every}


READS: Final = problems(404)
WRITES: Final = problems(400, 404, 409, 413)
