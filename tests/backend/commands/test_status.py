"""`mpamatch status` and `mpamatch settings`: what machines and people read of an installation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from backend.clock import utc_now
from backend.commands.settings import settings as settings_command
from backend.commands.status import status as status_command
from backend.credentials import ensure_credentials, ensure_dashboard_token
from backend.processes import ProcessBook, record_of, save_book
from backend.settings import Endpoints, save_endpoints
from backend.signs import BEAT, Signs
from tests.dashboard_project import filled


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
    assert found["dashboard"] == {"url": "http://127.0.0.1:1/"}
    token = ensure_dashboard_token(tmp_path)
    told = json.loads(CliRunner().invoke(program, ["status", "--json", "--secrets"]).output)
    assert token not in done.output
    assert told["dashboard"]["token"] == token
    assert told["label_studio"]["token"] == made.label_studio_token
    assert told["label_studio"]["password"] == made.label_studio_password
    assert "http://127.0.0.1:2/projects/3" in CliRunner().invoke(program, ["status"]).output


@pytest.mark.database
def test_how_the_projects_stand_is_told_to_people_and_machines(
    program: typer.Typer,
    tmp_path: Path,
    database_url: str,
    redis_url: str,
    sleeper: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = filled(database_url, tmp_path)
    Signs(redis_url).synced(made.project_id, now=utc_now())
    record = record_of("supervisor", sleeper.pid)
    assert record is not None
    save_book(tmp_path, ProcessBook("mark", record, (record,)))
    monkeypatch.setenv("MPAMATCH_DATABASE_URL", database_url)
    monkeypatch.setenv("MPAMATCH_BROKER_URL", redis_url)
    monkeypatch.setenv("MPAMATCH_DISK_LOW_GB", "1000000")
    monkeypatch.setenv("COLUMNS", "200")
    found = json.loads(CliRunner().invoke(program, ["status", "--json"]).output)
    (project,) = found["projects"]
    assert project["champion"] == "test-glands-m2"
    assert project["inbox"]["waiting"] == 1
    assert project["inbox"]["oldest_s"] > 500
    assert project["set_aside"] == {"images": 1, "annotations": 1}
    assert project["open_run"] == {"run": 4, "state": "training", "step": 120, "steps": 300, "silent_s": None}
    assert project["label_studio"]["synced_s"] < 60
    assert found["serving"] == {"beat": 0, "io": 0, "predict": 0, "train": 0}
    assert found["disk"]["low"] is True
    shown = CliRunner().invoke(program, ["status"]).output
    for word in ("test-glands", "m2", "1 images, 1 annotations", "4 training 120", "nobody serves beat, io", "(low)"):
        assert word in shown


def test_a_database_that_does_not_answer_leaves_the_rest_of_the_status(
    program: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPAMATCH_DATABASE_URL", f"postgresql+psycopg://nobody@/nothing?host={tmp_path}")
    found = json.loads(CliRunner().invoke(program, ["status", "--json"]).output)
    assert (found["projects"], found["serving"]) == (None, None)
    assert found["disk"]["free_gb"] > 0


@pytest.mark.database
def test_where_the_servers_are_others_the_api_answers_for_the_whole(
    program: typer.Typer, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPAMATCH_DATABASE_URL", database_url)
    with _answering() as url:
        monkeypatch.setenv("MPAMATCH_PUBLIC_URL", url)
        done = CliRunner().invoke(program, ["status", "--json"])
        assert (done.exit_code, json.loads(done.output)["api"]["healthy"]) == (0, True)
        # What an `up` that was killed left behind is no installation that runs, whoever has its port now.
        save_endpoints(tmp_path, Endpoints(api_url=url))
        assert CliRunner().invoke(program, ["status"]).exit_code == 1


@pytest.mark.database
def test_servers_of_others_are_told_by_their_addresses_and_by_what_they_answer(
    program: typer.Typer, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPAMATCH_DATABASE_URL", database_url)
    monkeypatch.setenv("MPAMATCH_BROKER_URL", redis_url)
    signs = Signs(redis_url)
    lives = [signs.keep_alive(name, [name], pid=os.getpid(), now=utc_now) for name in ("io", BEAT)]
    with _answering() as url:
        # As in compose: from here the browsers' address leads nowhere.
        monkeypatch.setenv("MPAMATCH_PUBLIC_URL", "https://127.0.0.1:9")
        monkeypatch.setenv("MPAMATCH_BACKEND_URL", url)
        monkeypatch.setenv("MPAMATCH_LABEL_STUDIO_URL", f"{url}/sub")
        found = json.loads(CliRunner().invoke(program, ["status", "--json"]).output)
    for life in lives:
        life.set()
    assert found["running"] is True
    assert found["api"] == {"url": "https://127.0.0.1:9", "pid": None, "healthy": True}
    assert found["dashboard"]["url"] == "https://127.0.0.1:9/"
    assert (found["label_studio"]["url"], found["label_studio"]["healthy"]) == (f"{url}/sub", True)
    assert found["postgres"]["healthy"] is found["redis"]["healthy"] is found["beat"]["healthy"] is True
    assert {name: part["healthy"] for name, part in found["workers"].items()} == {
        "io": True,
        "predict": False,
        "train": False,
    }


@contextmanager
def _answering() -> Iterator[str]:
    class Well(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Well)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_secrets_among_the_settings_are_masked(program: typer.Typer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPAMATCH_METRICS_TOKEN", "a-very-secret-word")
    monkeypatch.setenv("MPAMATCH_LABEL_STUDIO_TOKEN", "another-secret-word")
    monkeypatch.setenv("MPAMATCH_DATABASE_URL", "postgresql+psycopg://me:open-sesame@db/mpamatch")
    for arguments in (["settings"], ["settings", "--json"]):
        shown = CliRunner().invoke(program, arguments).output
        assert not [w for w in ("a-very-secret-word", "another-secret-word", "open-sesame") if w in shown]


def test_settings_are_listed_with_their_source(program: typer.Typer, tmp_path: Path) -> None:
    done = CliRunner().invoke(program, ["settings", "--json"])
    rows = {row["name"]: row for row in json.loads(done.output)}
    assert rows["state"]["value"] == str(tmp_path)
    assert rows["state"]["source"] == "environment"
    assert rows["tau"]["source"] == "default"
    assert "tau" in CliRunner().invoke(program, ["settings"]).output
