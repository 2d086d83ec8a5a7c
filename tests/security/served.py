"""A real `mpamatch serve` over a project of a test's own, and raw requests that no client library would send."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.commands.ports import free_port
from backend.label_studio_server import answers


@dataclass(frozen=True)
class Served:
    """Where it listens, and what it has written."""

    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def raw(self, request: bytes, *, patience_s: float = 20) -> bytes:
        """Send bytes as they are, and return what comes back until the other side is done or says no more."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            answer = b""
            try:
                connection.sendall(request)
                connection.settimeout(patience_s)
                while piece := connection.recv(65536):
                    answer += piece
            except OSError:
                pass  # it hung up on us, or waits for the rest: an answer too
            return answer


@contextmanager
def serving(state: Path, database_url: str, broker_url: str, log: Path, **settings: str) -> Iterator[Served]:
    """Run it until the block ends."""
    port = free_port("127.0.0.1", 9650, lambda line: None, what="API")
    environment = {**os.environ, "MPAMATCH_STATE": str(state), "MPAMATCH_LOG_LEVEL": "debug"}
    environment |= {"MPAMATCH_DATABASE_URL": database_url, "MPAMATCH_BROKER_URL": broker_url}
    environment |= {f"MPAMATCH_{name.upper()}": value for name, value in settings.items()}
    command = [sys.executable, "-c", "from mpamatch.cli import main; main()", "serve", "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 90
        while not answers("127.0.0.1", port, "/health"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "not ready within 90 s"
            time.sleep(0.2)
        yield Served(port, log)
    finally:
        process.terminate()
        process.wait(20)
