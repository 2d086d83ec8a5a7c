"""A real Label Studio for tests: one a session, empty, on loopback, in a folder of its own.

    real_label_studio    its address, token, login and the folder whose pictures it serves

Skips when ``.venv-label-studio`` is not there.
"""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.label_studio_tables import PROGRAM, lay_tables

START_S = 400


@dataclass(frozen=True)
class RealLabelStudio:
    url: str
    token: str
    email: str
    password: str
    pictures: Path


@pytest.fixture(scope="session")
def real_label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealLabelStudio]:
    if not PROGRAM.exists():
        pytest.skip("no .venv-label-studio: run `make setup`")
    folder = tmp_path_factory.mktemp("label-studio")
    (folder / "pictures" / "tiles").mkdir(parents=True)
    port = _free_port()
    server = RealLabelStudio(
        url=f"http://127.0.0.1:{port}",
        token=secrets.token_hex(20),
        email="annotator@example.com",
        password=secrets.token_urlsafe(12),
        pictures=folder / "pictures" / "tiles",
    )
    lay_tables(folder / "data" / "label_studio.sqlite3")
    arguments = ["start", "--no-browser", "--port", str(port), "--internal-host", "127.0.0.1"]
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [PROGRAM, *arguments],
            env=_environment(folder, server),
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait(server.url, child, folder / "log")
        yield server
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(timeout=20)


def _environment(folder: Path, server: RealLabelStudio) -> dict[str, str]:
    """No call leaves the machine, nothing is written outside the folder, loopback is allowed."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "HOME": str(folder),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "XDG_DATA_HOME": str(folder / "share"),
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"),
        "LABEL_STUDIO_HOST": server.url,
        "LABEL_STUDIO_USERNAME": server.email,
        "LABEL_STUDIO_PASSWORD": server.password,
        "LABEL_STUDIO_USER_TOKEN": server.token,
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
        "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(folder / "pictures"),
        "ML_BLOCK_LOCAL_IP": "false",
        "SSRF_PROTECTION_ENABLED": "false",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        "LATEST_VERSION_CHECK": "false",
    }


def _wait(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/health", timeout=2, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise RuntimeError("Label Studio did not come up:\n" + log.read_text(errors="replace")[-3000:])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
