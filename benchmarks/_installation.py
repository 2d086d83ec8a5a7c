"""The servers of an installation as real processes, on a state folder that is gone afterwards: PostgreSQL, Redis, the
API, Label Studio.

Not a benchmark itself. Each starts with the command and the environment that `mpamatch up` gives it, on loopback.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text

from backend.commands.ports import free_port
from backend.commands.stack import api_part, label_studio_part
from backend.commands.supervisor import Part
from backend.credentials import ensure_credentials
from backend.label_studio_server import EmbeddedLabelStudio, find_label_studio
from backend.labelstudio.client import LabelStudioClient
from backend.servers import EmbeddedPostgres, EmbeddedRedis
from backend.settings import PREFIX, Endpoints, Settings, save_endpoints
from backend.store.sessions import Database
from migrations.run import upgrade

HOST = "127.0.0.1"
STOP_S = 20
FIRST_API_PORT, FIRST_LABEL_STUDIO_PORT = 19_190, 19_290


@dataclass(frozen=True)
class Api:
    """One running API process."""

    pid: int
    port: int
    ready_s: float

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
        """One request on a connection of its own. Raises RuntimeError unless it is answered with 200."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            answer = response.read()
            if response.status != 200:
                raise RuntimeError(f"{method} {path} was answered with {response.status}: {answer[:300]!r}")
            return answer
        finally:
            connection.close()


@dataclass(frozen=True)
class LabelStudio:
    """A running Label Studio: a client of its first user, and that user's token."""

    client: LabelStudioClient
    token: str


@contextmanager
def running_servers() -> Iterator[Settings]:
    """PostgreSQL with every table and Redis. Settings of the one who measures do not reach what is measured."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    state = Path(tempfile.mkdtemp(prefix="mpamatch-bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, state, ignore_errors=True)
        postgres, redis = EmbeddedPostgres(state), EmbeddedRedis(state)
        stack.callback(postgres.stop, postgres.start())
        stack.callback(redis.stop, redis.start())
        upgrade(postgres.url())
        _check_durable(postgres.url())
        save_endpoints(state, Endpoints(database_url=postgres.url(), broker_url=redis.url))
        yield Settings(state=state, database_url=postgres.url(), broker_url=redis.url)


def _check_durable(url: str) -> None:
    database = Database(url)
    with database.transaction() as session:
        found = {name: session.scalar(text(f"SHOW {name}")) for name in ("fsync", "synchronous_commit")}
    database.close()
    if set(found.values()) != {"on"}:
        raise RuntimeError(f"writes would not be durable: {found}")


@contextmanager
def running_api(settings: Settings) -> Iterator[Api]:
    """The API process once it answers."""
    port = free_port(HOST, FIRST_API_PORT, lambda line: None, what="API")

    def answers(pid: int) -> bool:
        try:
            Api(pid, port, 0.0).ask("GET", "/health")
        except OSError:
            return False
        return True

    with _running(api_part(settings, port), settings.state, answers) as (pid, ready_s):
        yield Api(pid, port, ready_s)


@contextmanager
def running_label_studio(settings: Settings) -> Iterator[LabelStudio]:
    """An empty one of its own; its first start makes its tables."""
    credentials = ensure_credentials(settings.state)
    server = EmbeddedLabelStudio(
        settings.state,
        program=find_label_studio(settings.label_studio_command),
        host=HOST,
        port=free_port(HOST, FIRST_LABEL_STUDIO_PORT, lambda line: None, what="Label Studio"),
        credentials=credentials,
    )
    with (
        _running(label_studio_part(server, settings.state), settings.state, server.ready),
        LabelStudioClient(server.url, credentials.label_studio_token) as client,
    ):
        yield LabelStudio(client, credentials.label_studio_token)


@contextmanager
def _running(part: Part, folder: Path, ready: Callable[[int], bool]) -> Iterator[tuple[int, float]]:
    """The process id of a part, and the seconds until it was ready; it is stopped afterwards."""
    if part.prepare is not None:
        part.prepare()
    log_file = folder / f"{part.role}.log"
    with log_file.open("ab") as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            part.command, env=dict(part.environment), cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        while not ready(process.pid):
            if process.poll() is not None or time.perf_counter() - began > part.ready_timeout_s:
                raise RuntimeError(f"{part.role} did not start: {log_file.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)
        yield process.pid, time.perf_counter() - began
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
