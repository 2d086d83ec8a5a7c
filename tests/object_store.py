"""An S3 server for tests: one moto process a session on the loopback, a bucket of its own for each test.

s3_settings    settings that keep blobs in an empty bucket of that server
s3_server      the server itself, which a test may stop and start again
"""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

KEY_ID, SECRET = "a-key-of-tests", "a-secret-of-tests"
_numbers = itertools.count(1)


@dataclass
class ObjectStore:
    """A moto server as a process; its buckets live in its memory and go with it."""

    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = Path(sys.executable).with_name("moto_server")
        self.process = subprocess.Popen(
            [sys.executable, str(program), "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "MOTO_S3_DEFAULT_MAX_KEYS": "3"},  # so that listings come in pages
        )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                urllib.request.urlopen(f"{self.endpoint}/moto-api/", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise AssertionError("the S3 server did not start")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)

    def make_bucket(self) -> str:
        """A new, empty bucket's name."""
        name = f"tissue-{next(_numbers)}"
        request = urllib.request.Request(f"{self.endpoint}/{name}", method="PUT", headers={"Host": "localhost"})
        urllib.request.urlopen(request, timeout=30).close()
        return name

    def settings(self, bucket: str) -> dict[str, Any]:
        """What to set so that blobs are kept in a bucket; a short wait, since nothing here is far."""
        return {
            "blobs_url": f"s3://{bucket}/blobs",
            "blobs_endpoint": self.endpoint,
            "blobs_key_id": KEY_ID,
            "blobs_secret": SECRET,
            "blobs_timeout_s": 5.0,
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def s3_server() -> Iterator[ObjectStore]:
    server = ObjectStore(free_port())
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3_settings(s3_server: ObjectStore) -> dict[str, Any]:
    return s3_server.settings(s3_server.make_bucket())
