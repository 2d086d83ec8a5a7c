"""A write happens once for each `Idempotency-Key`; without one, as often as it is sent."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import datetime
from typing import Annotated

from fastapi import Header
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.orm import Session
from starlette.requests import Request

from backend.api.bearer import Caller
from backend.store import replies

IdempotencyKey = Annotated[
    str | None,
    Header(
        pattern=r"^[!-~]{1,255}$",
        description="a new value for each write; the same write sent again with it is answered as before, for a day",
    ),
]


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
    """Do it and answer, or answer what was answered before. One transaction: ``session`` must be its own."""
    if key is None:
        return JSONResponse(act().model_dump(mode="json"), status_code=status)
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
        replies.keep(row, status, act().model_dump(mode="json"))
    assert row.status is not None  # who came second waited for the first one's transaction
    return JSONResponse(row.body, status_code=row.status, headers={} if first else {"Idempotent-Replayed": "true"})
