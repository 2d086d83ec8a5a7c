"""Events as they happen, as server-sent events: the queue, annotations, runs, the champion.

A stream holds no connection to the database while nothing happens: it looks for a moment, then sleeps. Each look asks
anew whether the token still holds, so that a revoked one ends its streams. What was missed while a client was away is
sent first when it names the last event that it saw; every stream begins with how the project stands now.

Source: the HTML standard, "Server-sent events".
"""

from __future__ import annotations

import asyncio
import json
import weakref
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final

from fastapi import APIRouter, Header, Request
from sqlalchemy.orm import Session
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from backend.actions.see_events import Standing, Told, newest_place, standing, told_after
from backend.api.bearer import Caller, Viewer
from backend.api.parts import Parts, parts_of
from backend.api.v1.problems import problems
from backend.api.v1.shapes import ProjectKey
from backend.clock import utc_now
from backend.store import tokens
from backend.store.tables import Token
from mpamatch.errors import MpamatchError, Unavailable

router = APIRouter(prefix="/api/v1/projects/{key}/events", tags=["events"])

MEDIA_TYPE: Final = "text/event-stream"
# Comments keep proxies and clients from taking a quiet stream for a dead one.
HEARTBEAT_S: Final = 15.0
RETRY_MS: Final = 3_000
# Of one look; and of all that somebody missed, who then reads the state anew rather than the past.
BATCH: Final = 100
MOST_MISSED: Final = 1_000

# What one event of the stream is; its data is JSON, as a text.
_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}, "id": {"type": "string"}},
}
_DESCRIBED: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "`state` first and whenever it changes, then `queue`, `annotation`, `run`, `champion`,"
        " `label-studio` with an id each; `missed` when too much happened meanwhile; `end` says why it ended",
        "content": {MEDIA_TYPE: {"schema": _EVENT}},
    }
}


@dataclass(frozen=True)
class Look:
    """What one look saw. ``ended``: why the stream is over, None while it is not."""

    told: tuple[Told, ...]
    place: int
    missed: int
    state: Standing
    more: bool
    ended: str | None = None


class Streams:
    """The streams that are open in this process; one that nobody reads any more is no longer among them."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._open: weakref.WeakSet[AsyncGenerator[bytes, None]] = weakref.WeakSet()

    def add(self, stream: AsyncGenerator[bytes, None]) -> None:
        """Raises Unavailable when there are as many as may be."""
        if len(self._open) >= self.limit:
            raise Unavailable("events", f"{self.limit} streams are open", "try again later, or ask for `status`")
        self._open.add(stream)


@router.get("", responses={**problems(404), **_DESCRIBED}, response_class=StreamingResponse)
async def stream_events(
    request: Request,
    caller: Viewer,
    key: ProjectKey,
    last_event_id: Annotated[
        str | None,
        Header(pattern=r"^[0-9]{1,18}$", description="id of the last event seen; browsers send it themselves"),
    ] = None,
) -> StreamingResponse:
    """The project's events from now on, or from the one after `Last-Event-ID`, until the token ends."""
    parts = parts_of(request)
    place = await run_in_threadpool(_begin, parts, caller, key, None if last_event_id is None else int(last_event_id))
    settings = parts.settings
    stream = frames(
        lambda at: _look(parts, caller, key, at), place, poll_s=settings.event_poll_s, life_s=settings.event_stream_s
    )
    streams: Streams = request.app.state.streams
    streams.add(stream)
    # Proxies that collect an answer before they pass it on would hold every event back.
    return StreamingResponse(stream, media_type=MEDIA_TYPE, headers={"X-Accel-Buffering": "no"})


async def frames(
    look: Callable[[int], Look], place: int, *, poll_s: float, life_s: float, heartbeat_s: float = HEARTBEAT_S
) -> AsyncGenerator[bytes, None]:
    """The stream itself. ``look`` runs in a thread; between looks nothing is held."""
    clock = asyncio.get_running_loop().time
    ends_at, said_at, said = clock() + life_s, clock(), None
    yield f"retry: {RETRY_MS}\n\n".encode()
    while True:
        try:
            seen = await run_in_threadpool(look, place)
        except MpamatchError as error:
            yield frame("end", {"why": str(error)})
            return
        if seen.ended is not None:
            yield frame("end", {"why": seen.ended})
            return
        place = seen.place
        pieces = [] if seen.state == said else [frame("state", asdict(seen.state))]
        pieces += [frame("missed", {"events": seen.missed}, place=place)] if seen.missed else []
        pieces += [frame(t.kind, {"at": t.at.isoformat(), "what": t.what, **t.about}, place=t.place) for t in seen.told]
        said = seen.state
        if not pieces and clock() - said_at >= heartbeat_s:
            pieces = [b": still here\n\n"]
        for piece in pieces:
            yield piece
            said_at = clock()
        if clock() >= ends_at:
            yield frame("end", {"why": "this stream is old: connect again"})
            return
        if not seen.more:
            await asyncio.sleep(poll_s)


def frame(event: str, data: dict[str, Any], *, place: int | None = None) -> bytes:
    """One event; JSON holds no line break. Without a place it leaves the reader's last id alone."""
    numbered = "" if place is None else f"id: {place}\n"
    return f"{numbered}event: {event}\ndata: {json.dumps(data)}\n\n".encode()


def _begin(parts: Parts, caller: Caller, key: str, last: int | None) -> int:
    """Where a stream begins. Raises NotFound for a project that the caller may not see."""
    with parts.database.transaction() as session:
        newest = newest_place(session, caller.project(session, key))
    # A place beyond the end is of another log: that of before a restore.
    return newest if last is None or last > newest else last


def _look(parts: Parts, caller: Caller, key: str, place: int) -> Look:
    with parts.database.transaction() as session:
        if not _holds(session, caller):
            return Look((), place, 0, Standing(None, 0, None), more=False, ended="the token is not valid any more")
        project = caller.project(session, key)
        newest = newest_place(session, project)
        if newest - place > MOST_MISSED:
            return Look((), newest, newest - place, standing(session, project), more=False)
        told, reached = told_after(session, project, place, limit=BATCH)
        return Look(tuple(told), reached, 0, standing(session, project), more=reached < newest)


def _holds(session: Session, caller: Caller) -> bool:
    row = session.get(Token, caller.token_id)
    return row is not None and tokens.usable(row, now=utc_now())
