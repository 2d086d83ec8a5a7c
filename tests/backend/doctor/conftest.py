"""A whole installation that is well, for tests that break one thing of it: real servers, a real Label Studio, our API
as a process, signs of life of every worker, and a head of tasks.

    well    the installation; whoever breaks it mends it again
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis
from pydantic import SecretStr

from backend.actions import first_project
from backend.clock import utc_now
from backend.labelstudio.client import LabelStudioClient
from backend.servers import EmbeddedPostgres, EmbeddedRedis
from backend.settings import Settings
from backend.signs import BEAT, Signs
from backend.store import projects
from backend.wakeups import QUEUES
from tests.builders import Installation, installation, predict_all
from tests.label_studio_server import RealLabelStudio
from workers.jobs.sync import sync_project
from workers.parts import Parts

SERVE = "from mpamatch.cli import main; main()"


@dataclass
class Well:
    """The installation with what tests turn in it."""

    settings: Settings
    made: Installation
    postgres: EmbeddedPostgres
    redis: EmbeddedRedis
    studio: RealLabelStudio

    @property
    def client(self) -> LabelStudioClient:
        return LabelStudioClient(self.studio.url, self.studio.token)

    @property
    def ls_project_id(self) -> int:
        found = self.made.project().ls_project_id
        assert found is not None
        return found

    def changed(self, **settings: object) -> Settings:
        return self.settings.model_copy(update=settings)

    def sync(self) -> None:
        sync_project(Parts.open(self.settings), self.made.project_id, full=True)


@pytest.fixture(scope="module")
def well(
    postgres: EmbeddedPostgres,
    migrated_template: str,
    redis_server: EmbeddedRedis,
    real_label_studio: RealLabelStudio,
) -> Iterator[Well]:
    with redis.Redis.from_url(redis_server.plain_url) as client:
        client.flushall()
    state = Path(tempfile.mkdtemp(prefix="mpamatch-doctor-"))
    url = postgres.create_database("doctor", template=migrated_template)
    port = _free_port()
    settings = Settings(
        state=state,
        database_url=url,
        broker_url=redis_server.url,
        public_url=f"http://127.0.0.1:{port}",
        api_port=port,
        label_studio_url=real_label_studio.url,
        label_studio_token=SecretStr(real_label_studio.token),
        disk_low_gb=0.001,
    )
    made = installation(url, state, train=4, audit=2)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    signs = Signs(settings.broker_url)
    names = sorted({*QUEUES.values(), BEAT})
    lives = [signs.keep_alive(name, [name], pid=os.getpid(), now=utc_now) for name in names]
    api = _served(settings, port)
    try:
        first_project.connect_all(settings, made.database)
        found = Well(settings, made, postgres, redis_server, real_label_studio)
        found.sync()
        yield found
    finally:
        for life in lives:
            life.set()
        api.terminate()
        api.wait(20)
        made.database.close()
        postgres.drop_database("doctor")
        shutil.rmtree(state, ignore_errors=True)


def _served(settings: Settings, port: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "MPAMATCH_STATE": str(settings.state),
        "MPAMATCH_DATABASE_URL": str(settings.database_url),
        "MPAMATCH_BROKER_URL": str(settings.broker_url),
        "MPAMATCH_PUBLIC_URL": str(settings.public_url),
    }
    with open(settings.state / "api.log", "wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", "--port", str(port)], env=environment, stdout=log, stderr=log
        )
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and child.poll() is None:
        try:
            if httpx.get(f"{settings.public_url}/health/live", trust_env=False).is_success:
                return child
        except httpx.TransportError:
            time.sleep(0.2)
    child.kill()
    raise AssertionError((settings.state / "api.log").read_text(errors="replace")[-3000:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
