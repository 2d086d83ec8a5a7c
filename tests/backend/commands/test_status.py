"""`mpamatch status` and `mpamatch settings`: what machines and people read of an installation."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from backend.commands.settings import settings as settings_command
from backend.commands.status import status as status_command
from backend.credentials import ensure_credentials
from backend.processes import ProcessBook, record_of, save_book
from backend.settings import Endpoints, save_endpoints


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setenv("MPAMATCH_STATE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    app.command("status")(status_command)
    app.command("settings")(settings_command)
    return app


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(600)"])
    yield child
    child.kill()
    child.wait()


def test_when_nothing_runs_it_says_so_and_ends_with_one(program: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(program, ["status"])
    assert done.exit_code == 1
    assert "nothing runs" in done.output
    assert str(tmp_path) in done.output
    done = CliRunner().invoke(program, ["status", "--json"])
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert found["running"] is False
    assert found["api"] == {"url": None, "pid": None, "healthy": False}
    assert found["workers"] == {}


def test_a_book_of_dead_processes_is_nothing_that_runs(
    program: typer.Typer, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    record = record_of("supervisor", sleeper.pid)
    assert record is not None
    save_book(tmp_path, ProcessBook("mark", record, (record,)))
    assert CliRunner().invoke(program, ["status"]).exit_code == 0
    sleeper.kill()
    sleeper.wait()
    assert CliRunner().invoke(program, ["status"]).exit_code == 1


def test_machines_get_every_part_and_the_token_only_on_request(
    program: typer.Typer, tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    names = ("supervisor", "worker-io", "worker-train", "label-studio", "beat")
    records = [record_of(name, sleeper.pid) for name in names]
    known = [record for record in records if record is not None]
    save_book(tmp_path, ProcessBook("mark", known[0], tuple(known[1:])))
    made = ensure_credentials(tmp_path)
    save_endpoints(
        tmp_path,
        Endpoints(
            api_url="http://127.0.0.1:1",
            label_studio_url="http://127.0.0.1:2",
            label_studio_project=3,
            project_url="http://127.0.0.1:2/projects/3",
        ),
    )
    done = CliRunner().invoke(program, ["status", "--json"])
    assert done.exit_code == 0
    assert made.label_studio_token not in done.output
    assert made.label_studio_password not in done.output
    found = json.loads(done.output)
    assert found["api"] == {"url": "http://127.0.0.1:1", "pid": None, "healthy": False}
    assert found["workers"] == {
        "io": {"pid": sleeper.pid, "healthy": True},
        "train": {"pid": sleeper.pid, "healthy": True},
    }
    assert found["label_studio"] == {
        "url": "http://127.0.0.1:2",
        "project": 3,
        "project_url": "http://127.0.0.1:2/projects/3",
        "pid": sleeper.pid,
        "healthy": False,
        "login": made.label_studio_login,
    }
    told = json.loads(CliRunner().invoke(program, ["status", "--json", "--secrets"]).output)
    assert told["label_studio"]["token"] == made.label_studio_token
    assert told["label_studio"]["password"] == made.label_studio_password
    assert "http://127.0.0.1:2/projects/3" in CliRunner().invoke(program, ["status"]).output


def test_settings_are_listed_with_their_source(program: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(program, ["settings", "--json"])
    rows = {row["name"]: row for row in json.loads(done.output)}
    assert rows["state"]["value"] == str(tmp_path)
    assert rows["state"]["source"] == "environment"
    assert rows["tau"]["source"] == "default"
    assert "tau" in CliRunner().invoke(program, ["settings"]).output
