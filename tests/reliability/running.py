"""Single processes of the product for tests that storm or end them: the API, a worker."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import psutil

from backend.commands.stack import api_part, worker_part
from backend.commands.supervisor import Part
from backend.settings import Settings

START_S = 90.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_api(settings: Settings, port: int) -> Iterator[psutil.Process]:
    """The API process once it answers; ended at the end."""
    with _running(api_part(settings, port), settings) as process:
        deadline = time.monotonic() + START_S
        while not _answers(port):
            alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
            assert alive, (settings.state / "api.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "the API did not answer"
            time.sleep(0.1)
        yield process


@contextmanager
def running_worker(settings: Settings, queue: str) -> Iterator[psutil.Process]:
    """The worker process of one queue; wake-ups that come before it is ready wait for it."""
    with _running(worker_part(settings, queue), settings) as process:
        yield process


@contextmanager
def _running(part: Part, settings: Settings) -> Iterator[psutil.Process]:
    with (settings.state / f"{part.role}.log").open("ab") as log:
        child = subprocess.Popen(
            part.command, env=dict(part.environment), cwd=settings.state, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield psutil.Process(child.pid)
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5, trust_env=False).is_success
    except httpx.TransportError:
        return False
