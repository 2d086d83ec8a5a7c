"""Log lines: ids as fields, credentials never, and the same room for everything that a process says."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from backend.commands.startup import Startup
from backend.logs import REQUEST_ID, ids_of, set_up_logs, struck_out
from backend.store.secrets import KeyRing
from tests.builders import installation

SIGNATURE = "0123456789abcdef0123456789abcdef"
LEGACY = "a1b2c3d4e5" * 4
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9"


@pytest.fixture(autouse=True)
def loggers_as_they_were() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


def said(log_format: Any, speak: Any) -> str:
    stream = io.StringIO()
    set_up_logs(log_format, "info", stream=stream)
    speak(logging.getLogger("mpamatch.test"))
    return stream.getvalue()


def test_a_line_for_machines_has_its_ids_as_fields() -> None:
    told = json.loads(
        said("json", lambda log: log.info("project=%s run=%s tile=%s queued: 12 tiles changed", 3, 7, 41))
    )
    assert (told["project"], told["run"], told["tile"]) == (3, 7, 41)
    assert told["message"] == "project=3 run=7 tile=41 queued: 12 tiles changed"
    assert (told["level"], told["logger"]) == ("info", "mpamatch.test")
    assert told["time"].endswith("+00:00")


def test_fields_that_the_caller_gives_are_kept_and_containers_are_not() -> None:
    def speak(log: logging.Logger) -> None:
        log.info("said", extra={"route": "/tiles/{tile_id}.png", "ms": 3.2, "payload": {"result": [1, 2, 3]}})

    told = json.loads(said("json", speak))
    assert (told["route"], told["ms"]) == ("/tiles/{tile_id}.png", 3.2)
    assert "payload" not in told


def test_a_failure_is_one_line_with_its_trace() -> None:
    def speak(log: logging.Logger) -> None:
        try:
            raise RuntimeError(f"token={LEGACY}")
        except RuntimeError:
            log.exception("tile=%s failed", 9)

    lines = said("json", speak).splitlines()
    assert len(lines) == 1
    told = json.loads(lines[0])
    assert "RuntimeError" in told["trace"]
    assert LEGACY not in lines[0]


def test_a_line_of_a_request_carries_its_id() -> None:
    token = REQUEST_ID.set("abc")
    try:
        assert json.loads(said("json", lambda log: log.info("x")))["request_id"] == "abc"
    finally:
        REQUEST_ID.reset(token)
    assert "request_id" not in json.loads(said("json", lambda log: log.info("x")))


def test_a_library_with_handlers_of_its_own_speaks_through_the_same_one() -> None:
    other = logging.getLogger("uvicorn.error")
    stray = io.StringIO()
    other.addHandler(logging.StreamHandler(stray))
    other.setLevel(logging.INFO)
    assert json.loads(said("json", lambda _: other.info("started")))["logger"] == "uvicorn.error"
    assert stray.getvalue() == ""


def test_words_that_only_look_like_ids_make_no_field() -> None:
    assert ids_of("rerun=3 overproject=4 wrong =5") == {}
    assert ids_of("project=glands: not connected") == {"project": "glands"}


def test_the_news_of_a_start_are_such_lines_for_machines_and_nothing_on_the_console() -> None:
    console = io.StringIO()
    startup = Startup(Console(file=console), logged=True)
    told = json.loads(said("json", lambda _: startup.say("Redis: ready after 0.2 s")))
    assert (told["logger"], told["message"]) == ("mpamatch.up", "Redis: ready after 0.2 s")
    assert console.getvalue() == ""


SECRETS = [
    f"GET /tiles/4.png?expires=1&key=ab&signature={SIGNATURE}",
    "postgresql+psycopg://me:open-sesame@db/mpamatch",
    f"Authorization: Token {LEGACY}",
    f"authorization='Bearer {JWT}'",
    "Authorization: Basic " + base64.b64encode(b"label-studio:open-sesame").decode(),
    f"wrote {LEGACY} to the project",
    f"refresh {JWT}",
    "password=open-sesame",
    '{"access_token": "open-sesame-1234"}',
    "X-Mpamatch-Secret: open-sesame",
]


@pytest.mark.parametrize("log_format", ["json", "text"])
@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_credential_is_struck_out(secret: str, log_format: str) -> None:
    told = said(log_format, lambda log: log.warning("%s", secret))
    for word in (SIGNATURE, LEGACY, JWT, "open-sesame", base64.b64encode(b"label-studio:open-sesame").decode()):
        assert word not in told
    assert "***" in told


def test_what_is_no_credential_stays() -> None:
    digest = "c" * 64
    line = f"blob {digest[:12]} of {digest}: run=3 token bucket, 12 tiles; http://127.0.0.1:8080/projects/3"
    assert struck_out(line) == line


# -- real processes ----------------------------------------------------------------------------------------------------

RUN = "from mpamatch.cli import main; main()"


def environment(state: Path, database_url: str, redis_url: str) -> dict[str, str]:
    return os.environ | {
        "MPAMATCH_STATE": str(state),
        "MPAMATCH_DATABASE_URL": database_url,
        "MPAMATCH_BROKER_URL": redis_url,
        "MPAMATCH_LOG_FORMAT": "json",
    }


def lines_of(log: Path) -> list[dict[str, Any]]:
    """Fails on a line that is no JSON object."""
    found = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(isinstance(line, dict) for line in found)
    return found


def until(look: Any, child: subprocess.Popen[bytes], log: Path, limit_s: float = 90.0) -> Any:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline and child.poll() is None:
        found = look()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-3000:])


@pytest.mark.database
@pytest.mark.processes
def test_every_line_of_the_served_api_is_json_without_a_signature_or_a_password(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    made = installation(database_url, tmp_path, train=1, audit=1)
    tile = made.tiles()[0].id
    expires = int(time.time()) + 600
    keys = KeyRing.at(tmp_path / "key")
    signature = keys.sign(f"{tile}:{expires}")
    log, port = tmp_path / "api.log", _free_port()
    with open(log, "wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-c", RUN, "serve", "--port", str(port)],
            env=environment(tmp_path, database_url, redis_url),
            stdout=out,
            stderr=out,
        )
    address = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(base_url=address, trust_env=False) as client:

            def answers() -> bool:
                try:
                    return client.get("/health/live").is_success
                except httpx.TransportError:
                    return False

            until(answers, child, log)
            link = f"/tiles/{tile}.png?expires={expires}&key={keys.key_id}&signature={signature}"
            assert client.get(link, headers={"X-Request-ID": "from-the-proxy.7"}).status_code == 200
            refused = client.post("/ml/test-glands/predict", json={}, auth=("label-studio", "open-sesame"))
            assert refused.status_code == 401
            assert client.get(f"/nowhere?signature={signature}").status_code == 404
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(20)
    whole = log.read_text()
    assert signature not in whole
    assert "open-sesame" not in whole
    access = [line for line in lines_of(log) if line["logger"] == "mpamatch.access"]
    picture = next(line for line in access if line["route"] == "/tiles/{tile_id}.png")
    assert (picture["tile"], picture["status"], picture["request_id"]) == (tile, 200, "from-the-proxy.7")
    assert picture["ms"] > 0
    predict = next(line for line in access if line["route"] == "/ml/{key}/predict")
    assert (predict["project"], predict["status"], refused.headers["X-Request-ID"]) == (
        "test-glands",
        401,
        predict["request_id"],
    )
    assert {line["route"] for line in access} == {"/tiles/{tile_id}.png", "/ml/{key}/predict", "unmatched"}
    assert any(line["logger"].startswith("uvicorn") for line in lines_of(log))


@pytest.mark.database
@pytest.mark.processes
@pytest.mark.parametrize("arguments", [["--queues", "io", "--name", "io"], ["--beat"]], ids=["worker", "beat"])
def test_every_line_of_a_worker_is_json_and_it_tells_the_broker_that_it_lives(
    arguments: list[str], database_url: str, redis_url: str, tmp_path: Path
) -> None:
    from backend.signs import look_at_broker

    log, queue = tmp_path / "worker.log", "beat" if arguments == ["--beat"] else "io"
    with open(log, "wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-c", RUN, "worker", *arguments],
            env=environment(tmp_path, database_url, redis_url),
            stdout=out,
            stderr=out,
        )
    try:
        until(lambda: look_at_broker(redis_url).serving()[queue] == 1, child, log)
        until(lambda: any("celery" in line["logger"] for line in lines_of(log)), child, log)
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(40)
    assert lines_of(log)


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
