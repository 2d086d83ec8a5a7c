"""A write happens once for each `Idempotency-Key`; without one, as often as it is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.requests import Request

from backend.api.bearer import Caller
from backend.api.v1.shapes import Shape
from backend.store import replies

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[!-~]{1,255}$",
        description="a new value for each write; the same write sent again with it is answered as before, for a day",
    ),
]


class Conflicting(Shape):
    """A refusal after which something was kept all the same: a problem document that names it."""

    type: str = "about:blank"
    title: str = "Conflict"
    status: int = 409
    detail: str
    item: str
    remedy: str
    draft: int


def once(
    session: Session,
    request: Request,
    caller: Caller,
    key: str | None,
    body: BaseModel | None,
    act: Callable[[], BaseModel],
    *,
    now: datetime,
    status: int = 200,
) -> JSONResponse:
    """Do it and answer, or answer what was answered before. One transaction: ``session`` must be its own.

    What ``act`` raises is undone; a ``Conflicting`` that it returns is answered and what it did stays.
    """
    if key is None:
        answer = act()
        return _answer(answer.model_dump(mode="json"), _status(answer, status), {})
    said = "" if body is None else json.dumps(body.model_dump(mode="json"), sort_keys=True)
    digest = hashlib.sha256(f"{request.method} {request.url.path}\n{said}".encode()).digest()
    row, first = replies.take(
        session,
        token_id=caller.token_id,
        idempotency_key=key,
        request_digest=digest,
        now=now,
    )
    if first:
        answer = act()
        replies.keep(row, _status(answer, status), answer.model_dump(mode="json"))
    assert row.status is not None  # who came second waited for the first one's transaction
    return _answer(row.body, row.status, {} if first else {"Idempotent-Replayed": "true"})


def _status(answer: BaseModel, status: int) -> int:
    return answer.status if isinstance(answer, Conflicting) else status


def _answer(body: Any, status: int, headers: dict[str, str]) -> JSONResponse:
    kind = "application/json" if status < 400 else "application/problem+json"
    return JSONResponse(body, status_code=status, headers=headers, media_type=kind)
