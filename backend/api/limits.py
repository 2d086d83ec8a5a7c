"""How much a request may send: counted while it arrives, so that nobody fills the memory with one body."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.errors import problem

MB = 1024 * 1024


class BodyLimit:
    """Refuses bodies over the limit with 413, by their declared length at once, else when the count passes it."""

    def __init__(self, app: ASGIApp, *, limit_mb: int, predict_limit_mb: int) -> None:
        self.app = app
        self.limit = limit_mb * MB
        self.predict_limit = predict_limit_mb * MB

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.predict_limit if scope["path"].endswith("/predict") else self.limit
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            await problem(413, "Body too large", f"at most {limit // MB} MB are read")(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413, f"at most {limit // MB} MB are read")
            return message

        await self.app(scope, counted, send)
