"""Streams of events: what is told, exactly once, also after a break; and that an idle stream holds nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import update
from sqlalchemy.event import listen

from backend.actions.change_champion import promote
from backend.actions.see_events import Standing, newest_place, told_after
from backend.api.v1 import events as routes
from backend.api.v1.events import Look, Streams, frames
from backend.commands.ports import free_port
from backend.site import create_site
from backend.store import events, leases, tokens
from backend.store.tables import Model, Project, Run
from mpamatch.errors import Unavailable
from tests.backend.api.conftest import Api
from tests.backend.api.test_v1 import add_run
from tests.builders import Installation, add_model

pytestmark = pytest.mark.database
ADDRESS = "/api/v1/projects/mine/events"
NOBODY = Standing(None, 0, None)


@dataclass(frozen=True)
class Heard:
    """One event as a client reads it."""

    event: str
    data: Any
    id: str | None


def parsed(lines: Iterator[str]) -> Iterator[Heard]:
    """By the rules of the standard, as far as they are used."""
    fields: dict[str, str] = {}
    for line in lines:
        if line == "":
            if "data" in fields:
                yield Heard(fields.get("event", "message"), json.loads(fields["data"]), fields.get("id"))
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


@dataclass(frozen=True)
class Served:
    """The same installation, its port, and the connections of the process that serves it."""

    api: Api
    port: int
    pool: Any

    @property
    def mine(self) -> Installation:
        return self.api.mine

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", trust_env=False, timeout=20)


@pytest.fixture
def served(api: Api) -> Iterator[Served]:
    """The API on a real port: a test client cannot read what has no end."""
    port = free_port("127.0.0.1", 9700, lambda line: None, what="API")
    settings = api.settings.model_copy(
        update={"event_stream_s": 60.0, "event_poll_s": 0.05, "event_streams": 2, "api_port": port}
    )
    site = create_site(settings)
    server = uvicorn.Server(uvicorn.Config(site, port=port, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(api, port, site.api.state.parts.database.engine.pool)  # type: ignore[attr-defined]
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def listening(served: Served, token: str, *, last: str | None = None) -> Iterator[Iterator[Heard]]:
    headers = {"Authorization": f"Bearer {token}", **({} if last is None else {"Last-Event-ID": last})}
    with served.client() as client, client.stream("GET", ADDRESS, headers=headers) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        yield parsed(response.iter_lines())


def until(heard: Iterator[Heard], fits: Callable[[Heard], bool]) -> list[Heard]:
    """Everything up to the first one that fits."""
    seen = []
    for one in heard:
        seen.append(one)
        if fits(one):
            return seen
    raise AssertionError(f"the stream ended after {seen}")


def take(made: Installation) -> int:
    with made.database.transaction() as session:
        (row,) = leases.claim(session, made.project_id, holder="a", count=1, now=datetime.now(UTC), lease_s=60)
        return row.tile_id


def serve(made: Installation, version: str) -> None:
    model = add_model(made, version)
    with made.database.transaction() as session:
        project, row = session.get_one(Project, made.project_id), session.get_one(Model, model.id)
        promote(session, project, row, actor="gate", now=datetime.now(UTC), provisional=False, why="a reason")


def test_what_happens_is_told_as_it_happens_and_resumed_without_gap_or_repeat(served: Served) -> None:
    token = served.api.token("viewer").token
    with listening(served, token) as heard:
        state = next(heard)
        assert (state.event, state.id) == ("state", None)
        assert state.data == {"champion": "mine-m0", "generation": 1, "run": None}
        tile = take(served.mine)
        (one,) = until(heard, lambda h: h.event == "queue")
        assert one.data["what"] == "entry leased"
        assert one.data["tile"] == tile
        take(served.api.theirs)  # another project's
        add_run(served.mine)
        with served.mine.database.transaction() as session:
            session.execute(update(Run).values(progress={"step": 3, "steps": 9, "eta_s": 4.5}))
        seen = until(heard, lambda h: (h.data.get("run") or {}).get("step") == 3)
        assert {h.event for h in seen} == {"state"}
        assert seen[-1].data["run"] == {"number": 1, "state": "queued", "step": 3, "steps": 9, "eta_s": 4.5}
    missed = take(served.mine)
    serve(served.mine, "mine-m1")
    with listening(served, token, last=one.id) as heard:
        assert next(heard).data["champion"] == "mine-m1"
        first, second = next(heard), next(heard)
        assert (first.event, first.data["tile"]) == ("queue", missed)
        assert (second.event, second.data["champion"]) == ("champion", "mine-m1")
        assert int(one.id or 0) < int(first.id or 0) < int(second.id or 0)
        again = take(served.mine)
        assert until(heard, lambda h: h.event == "queue")[-1].data["tile"] == again


def test_nothing_but_the_listed_fields_is_told(served: Served) -> None:
    """Names of files, holders and free text of the log stay in the log."""
    with served.mine.database.transaction() as session:
        events.record(
            session,
            project_id=served.mine.project_id,
            actor="someone@example.com",
            what="annotation present",
            subject="annotation:1",
            after={"tile": 4, "scope": "artefact", "problem": "/wards/Jane Doe/a.png", "shown": "m0"},
        )
        events.record(
            session,
            project_id=served.mine.project_id,
            actor="x",
            what="image quarantined",
            subject="image:1",
            after={"problem": "/wards/Jane Doe/a.png"},
        )
    serve(served.mine, "mine-m1")
    with listening(served, served.api.token("viewer").token, last="0") as heard:
        seen = until(heard, lambda h: h.event == "champion")
    told = next(h for h in seen if h.event == "annotation")
    assert set(told.data) == {"at", "what", "tile", "scope"}
    assert set(seen[-1].data) == {"at", "what", "champion", "model"}
    words = json.dumps([h.data for h in seen])
    assert not any(secret in words for secret in ("Jane", "someone", "a reason", "image"))


def test_runs_and_models_are_looked_up_all_at_once(api: Api) -> None:
    asked: list[str] = []
    with api.mine.database.transaction() as session:
        project = session.get_one(Project, api.mine.project_id)
        models = [add_model(api.mine, f"mine-m{n}") for n in range(7, 10)]
        for model in models:
            events.record(
                session, project_id=project.id, actor="gate", what="candidate rejected", subject=f"model:{model.id}"
            )
    with api.mine.database.transaction() as session:
        project = session.get_one(Project, api.mine.project_id)
        end = newest_place(session, project)
        listen(api.mine.database.engine, "before_cursor_execute", lambda *a: asked.append(a[2]))
        told, _ = told_after(session, project, end - 3, limit=100)
    assert [one.about["model"] for one in told] == [model.version for model in models]
    assert len(asked) == 2  # the log, and the models


def test_a_revoked_token_ends_its_stream(served: Served) -> None:
    made = served.api.token("viewer")
    with listening(served, made.token) as heard:
        next(heard)
        with served.mine.database.transaction() as session:
            tokens.revoke(session, made.row.key_id, now=datetime.now(UTC), actor="operator")
        assert [h.event for h in heard] == ["end"]


def test_idle_streams_hold_no_connection_and_no_more_are_opened_than_may_be(served: Served) -> None:
    token = served.api.token("viewer").token
    with listening(served, token) as one, listening(served, token) as other:
        next(one), next(other)
        idle, ends_at = 0, time.monotonic() + 20  # a look takes a while on a busy machine
        while idle < 5 and time.monotonic() < ends_at:
            time.sleep(0.01)
            idle += served.pool.checkedout() == 0
        assert idle == 5, "the streams hold connections between their looks"
        with served.client() as client:
            refused = client.get(ADDRESS, headers={"Authorization": f"Bearer {token}"})
        assert refused.status_code == 503
        assert refused.json()["item"] == "events"
    for _ in range(100):  # who has gone frees the place, which shows at the next look
        time.sleep(0.05)
        try:
            with listening(served, token) as heard:
                next(heard)
            return
        except AssertionError:
            continue
    raise AssertionError("the places of closed streams were not freed")


def test_a_place_that_is_no_place_is_refused_or_begins_at_the_end(served: Served) -> None:
    client = served.api.client("viewer")
    for wrong in ("-1", "x", "1" * 19, "1 OR 1"):
        assert client.get(ADDRESS, headers={"Last-Event-ID": wrong}).status_code == 422
    with listening(served, served.api.token("viewer").token, last="9" * 18) as heard:  # of another log
        next(heard)
        tile = take(served.mine)
        assert until(heard, lambda h: h.event == "queue")[-1].data["tile"] == tile


def test_who_missed_too_much_is_told_how_much_and_reads_the_state(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MOST_MISSED", 3)
    client = api.client("viewer")
    take(api.mine)
    take(api.mine)
    few = list(parsed(iter(client.get(ADDRESS, headers={"Last-Event-ID": "0"}).text.splitlines())))
    assert few[1].event == "missed"  # the ranking, registrations and two leases
    assert few[1].data["events"] > 3
    assert [h.event for h in few] == ["state", "missed", "end"]
    take(api.mine)
    rest = list(parsed(iter(client.get(ADDRESS, headers={"Last-Event-ID": str(few[1].id)}).text.splitlines())))
    assert [h.event for h in rest] == ["state", "queue", "end"]


def collected(look: Callable[[int], Look], *, most: int, **options: float) -> list[bytes]:
    async def read() -> list[bytes]:
        pieces = []
        async for piece in frames(look, 0, **options):
            pieces.append(piece)
            if len(pieces) == most:
                break
        return pieces

    return asyncio.run(read())


def test_a_quiet_stream_says_that_it_is_there() -> None:
    quiet = Look((), 0, 0, NOBODY, more=False)
    pieces = collected(lambda place: quiet, most=4, poll_s=0.001, life_s=60, heartbeat_s=0.01)
    assert pieces[2:] == [b": still here\n\n"] * 2


def test_a_stream_ends_when_it_is_old_or_the_database_is_away() -> None:
    quiet = Look((), 0, 0, NOBODY, more=False)
    old = collected(lambda place: quiet, most=9, poll_s=0.001, life_s=0.005)
    assert b"event: end" in old[-1]

    def away(place: int) -> Look:
        raise Unavailable("database", "does not answer", "wait")

    assert b"does not answer" in collected(away, most=9, poll_s=0.001, life_s=60)[-1]


def test_a_stream_that_nobody_reads_any_more_frees_its_place() -> None:
    streams = Streams(1)
    quiet = Look((), 0, 0, NOBODY, more=False)
    first = frames(lambda place: quiet, 0, poll_s=1, life_s=1)
    streams.add(first)
    with pytest.raises(Unavailable):
        streams.add(frames(lambda place: quiet, 0, poll_s=1, life_s=1))
    del first
    gc.collect()
    streams.add(frames(lambda place: quiet, 0, poll_s=1, life_s=1))
