"""`mpamatch tokens`, `keys` and the queue's claims at the command line, on a real database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backend.actions.rank_queue import rank_queue
from backend.clock import utc_now
from backend.store import projects, tokens
from mpamatch.cli import main
from tests.builders import Installation, installation, predict_all

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    made = installation(database_url, tmp_path, train=3, audit=1)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    rank_queue(made.database, made.project_id)
    for name, value in (("STATE", str(tmp_path)), ("DATABASE_URL", database_url), ("BROKER_URL", redis_url)):
        monkeypatch.setenv(f"MPAMATCH_{name}", value)
    return made


@pytest.fixture
def call(made: Installation, capsys: pytest.CaptureFixture[str]) -> Any:
    """One command; its exit code, what it printed, and what it said on stderr."""

    def called(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return called


def test_a_token_is_shown_once_used_listed_and_revoked(made: Installation, call: Any) -> None:
    code, out, err = call(
        "tokens", "create", "night script", "--role", "annotator", "--project", "test-glands", "--days", "2"
    )
    token = out.strip()
    assert code == 0
    assert "shown this once" in err
    with made.database.transaction() as session:
        assert tokens.authenticate(session, token, now=utc_now()) is not None
    code, out, _ = call("tokens", "list", "--json")
    (row,) = json.loads(out)
    assert (row["name"], row["role"], row["project"], row["state"]) == (
        "night script",
        "annotator",
        "test-glands",
        "usable",
    )
    assert row["last_used_at"] is not None
    assert token.split("_", 2)[2] not in out
    assert call("tokens", "revoke", row["key_id"])[0] == 0
    with made.database.transaction() as session:
        assert tokens.authenticate(session, token, now=utc_now()) is None
    code, _, err = call("tokens", "revoke", row["key_id"])
    assert code == 1
    assert "revoked already" in err


def test_a_token_of_a_project_or_role_that_does_not_exist_is_refused(call: Any) -> None:
    assert call("tokens", "create", "x", "--role", "admin")[0] == 2
    assert call("tokens", "create", "x", "--role", "viewer", "--project", "nobodys")[0] == 1
    assert call("tokens", "create", "  ", "--role", "viewer")[0] == 1


def test_a_tile_is_taken_given_back_and_left_out(made: Installation, call: Any) -> None:
    taken = json.loads(call("queue", "next", "--holder", "ann", "--count", "2", "--json")[1])
    one, other = (str(entry["tile_id"]) for entry in taken)
    code, _, err = call("queue", "release", one, "--attempt", "1", "--holder", "ben")
    assert code == 1
    assert "held under another lease" in err
    assert (
        json.loads(call("queue", "release", one, "--attempt", "1", "--holder", "ann", "--json")[1])["state"] == "open"
    )
    said = call("queue", "skip", other, "--attempt", "1", "--holder", "ann", "--reason", "out of focus")
    assert said[1].strip() == f"tile {other}: skipped"
    assert call("queue", "skip", other, "--attempt", "1", "--reason", " ")[0] == 1


def test_the_key_is_rotated(made: Installation, call: Any) -> None:
    before = made.keys.key_id
    done = json.loads(call("keys", "rotate", "--json")[1])
    assert done == {"key_id": made.keys.key_id, "projects": 1, "dropped_old": False}
    assert done["key_id"] != before
