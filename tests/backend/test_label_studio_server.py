"""What our own Label Studio is started with."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from backend import label_studio_turns
from backend.credentials import ensure_credentials
from backend.label_studio_server import (
    GUARDED_NETWORKS,
    EmbeddedLabelStudio,
    answers,
    find_label_studio,
    listening_ports,
)
from mpamatch.errors import Conflict, Unavailable


def studio(state: Path) -> EmbeddedLabelStudio:
    program = Path("/somewhere/label-studio")
    return EmbeddedLabelStudio(
        state, program=program, host="127.0.0.1", port=8081, credentials=ensure_credentials(state)
    )


def guarded(address: str) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in GUARDED_NETWORKS)


def test_the_address_guard_stays_on_for_everything_private_but_loopback(tmp_path: Path) -> None:
    environment = studio(tmp_path).environment({})
    assert environment["LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS"] == "false"
    assert environment["LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS"].split(",") == list(GUARDED_NETWORKS)
    for address in ("10.0.0.1", "172.17.0.1", "192.168.1.1", "169.254.169.254", "fd00::1", "fe80::1", "0.0.0.0"):
        assert guarded(address), address
    for address in ("127.0.0.1", "127.0.1.1", "::1", "8.8.8.8"):
        assert not guarded(address), address


def test_a_foreign_label_studio_environment_does_not_reach_ours(tmp_path: Path) -> None:
    around = {"LABEL_STUDIO_DATABASE_NAME": "/theirs", "HEARTEX_X": "1", "LABEL_STUDIO_PASSWORD": "p", "PATH": "/bin"}
    environment = studio(tmp_path).environment(around)
    assert environment["LABEL_STUDIO_DATABASE_NAME"] == str(tmp_path / "label-studio" / "label_studio.sqlite3")
    assert environment["LABEL_STUDIO_PASSWORD"] != "p"
    assert "HEARTEX_X" not in environment
    assert environment["PATH"] == "/bin"


def test_people_who_ask_for_the_next_task_take_turns_in_it(tmp_path: Path) -> None:
    """What its interpreter reads at the start is there, before anything else of that name."""
    made = studio(tmp_path)
    made.prepare()
    first, *others = made.environment({"PYTHONPATH": "/theirs"})["PYTHONPATH"].split(os.pathsep)
    assert others == ["/theirs"]
    assert (Path(first) / "sitecustomize.py").read_bytes() == Path(label_studio_turns.__file__).read_bytes()


def test_sign_up_is_closed_tokens_work_and_nothing_calls_home(tmp_path: Path) -> None:
    environment = studio(tmp_path).environment({})
    assert environment["LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK"] == "true"
    assert environment["LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN"] == "true"
    assert environment["LABEL_STUDIO_TASK_LOCK_TTL"] == "3600"
    for name in ("COLLECT_ANALYTICS", "LATEST_VERSION_CHECK"):
        assert environment[f"LABEL_STUDIO_{name}"] == "false"
    assert environment["LABEL_STUDIO_SENTRY_DSN"] == ""


def test_password_and_token_are_not_on_the_command_line(tmp_path: Path) -> None:
    made = ensure_credentials(tmp_path)
    command = " ".join(studio(tmp_path).command)
    assert "--internal-host 127.0.0.1" in command
    assert made.label_studio_token not in command
    assert made.label_studio_password not in command


def test_a_configured_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="MPAMATCH_LABEL_STUDIO_COMMAND"):
        find_label_studio(str(tmp_path / "missing"))
    program = tmp_path / "label-studio"
    program.write_text("#!/bin/sh\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert find_label_studio(str(program)) == program


def test_an_answer_counts_only_from_the_process_that_is_meant(tmp_path: Path) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health/" else 404)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    try:
        assert answers("127.0.0.1", port, "/health/")
        assert not answers("127.0.0.1", port, "/other")
        assert port in listening_ports(os.getpid())
        assert port not in listening_ports(1)
        studio = EmbeddedLabelStudio(
            tmp_path,
            program=Path("label-studio"),
            host="127.0.0.1",
            port=port,
            credentials=ensure_credentials(tmp_path),
        )
        assert studio.ready(os.getpid())
        assert not studio.ready(2**22 + 1), "a process that is gone"
        moved = EmbeddedLabelStudio(
            tmp_path, program=Path("label-studio"), host="127.0.0.1", port=1, credentials=ensure_credentials(tmp_path)
        )
        with pytest.raises(Conflict, match="moved to"):
            moved.ready(os.getpid())
    finally:
        server.shutdown()
        server.server_close()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        assert not answers("127.0.0.1", silent.getsockname()[1], "/", timeout_s=0.5)
