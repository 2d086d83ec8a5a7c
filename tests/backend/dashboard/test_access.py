"""Tokens, sessions and form tokens, with their rows and without any server of pages."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backend.credentials import dashboard_token_path, ensure_dashboard_token, load_dashboard_token
from backend.dashboard.access import TRIES, Access
from backend.dashboard.guard import local_path
from backend.store import tokens
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from mpamatch.errors import BadInput
from tests.builders import installation

pytestmark = pytest.mark.database
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
TOKEN = "the-right-token-of-this-test"


@pytest.fixture
def keys(tmp_path: Path) -> KeyRing:
    return KeyRing.at(tmp_path / "key")


@pytest.fixture
def rows(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def opened(access: Access, token: str = TOKEN, now: datetime = NOW) -> str:
    cookie = access.sign_in(token, address="here", now=now)
    assert cookie is not None
    return cookie


def test_the_right_token_opens_a_session_that_ends_by_itself(keys: KeyRing, rows: Database) -> None:
    access = Access(keys, TOKEN, database=rows, hours=2)
    cookie = opened(access)
    assert access.read(cookie, now=NOW) is not None
    assert access.read(cookie, now=NOW + timedelta(hours=2, seconds=-2)) is not None
    assert access.read(cookie, now=NOW + timedelta(hours=2, seconds=1)) is None


def test_a_wrong_token_opens_nothing(keys: KeyRing, rows: Database) -> None:
    access = Access(keys, TOKEN, database=rows, hours=2)
    for wrong in ("", "no", TOKEN[:-1], TOKEN + "x", "\ud800"):
        assert access.sign_in(wrong, address="here", now=NOW) is None


def test_a_session_is_refused_when_a_letter_of_it_is_changed(keys: KeyRing, rows: Database) -> None:
    access = Access(keys, TOKEN, database=rows, hours=2)
    began, nonce, signature = opened(access).split(".")
    later = str(int(began) + 60)
    for forged in (
        f"{later}.{nonce}.{signature}",
        f"{began}.{nonce[::-1]}.{signature}",
        f"{began}.{nonce}.{'0' * 32}",
        f"{began}.{nonce}.",
        f"{began}..{signature}",
        "",
        "...",
        "\u0661.x.y",
        f"{began}.{nonce}.é",
    ):
        assert access.read(forged, now=NOW + timedelta(minutes=2)) is None, forged


def test_another_token_or_another_key_file_ends_every_session(keys: KeyRing, rows: Database, tmp_path: Path) -> None:
    cookie = opened(Access(keys, TOKEN, database=rows, hours=2))
    assert Access(keys, TOKEN, database=rows, hours=2).read(cookie, now=NOW) is not None
    assert Access(keys, "another-token-of-this-test", database=rows, hours=2).read(cookie, now=NOW) is None
    assert Access(KeyRing.at(tmp_path / "other"), TOKEN, database=rows, hours=2).read(cookie, now=NOW) is None


def test_who_signed_out_is_out_with_a_copied_cookie_too(keys: KeyRing, rows: Database) -> None:
    access = Access(keys, TOKEN, database=rows, hours=2)
    cookie, other = opened(access), opened(access)
    session = access.read(cookie, now=NOW)
    assert session is not None
    access.sign_out(session, now=NOW)
    assert access.read(cookie, now=NOW) is None
    assert access.read(other, now=NOW) is not None


def test_who_signed_out_stays_out_after_a_restart(keys: KeyRing, rows: Database) -> None:
    access = Access(keys, TOKEN, database=rows, hours=2)
    cookie, other = opened(access), opened(access)
    session = access.read(cookie, now=NOW)
    assert session is not None
    access.sign_out(session, now=NOW)
    restarted = Access(keys, TOKEN, database=rows, hours=2)
    assert restarted.read(cookie, now=NOW) is None
    assert restarted.read(other, now=NOW) is not None


def test_an_operators_token_opens_the_door_until_it_is_revoked(keys: KeyRing, rows: Database) -> None:
    access = Access(keys, TOKEN, database=rows, hours=2)
    with rows.transaction() as session:
        made = {
            role: tokens.create(session, name=role, role=role, project_id=None, expires_at=None, now=NOW, actor="test")
            for role in tokens.ROLES
        }
    cookie = opened(access, made["operator"].token)
    assert access.read(cookie, now=NOW) is not None
    for role in ("viewer", "annotator"):
        assert access.sign_in(made[role].token, address="here", now=NOW) is None
    with rows.transaction() as session:
        tokens.revoke(session, made["operator"].row.key_id, now=NOW, actor="test")
    assert access.read(cookie, now=NOW) is None
    assert access.sign_in(made["operator"].token, address="here", now=NOW) is None


def test_a_token_of_one_project_does_not_open_the_pages_of_all(keys: KeyRing, rows: Database, tmp_path: Path) -> None:
    made = installation(
        str(rows.engine.url.render_as_string(hide_password=False)), tmp_path / "state", train=1, audit=0
    )
    with rows.transaction() as session:
        limited = tokens.create(
            session, name="x", role="operator", project_id=made.project_id, expires_at=None, now=NOW, actor="test"
        )
    access = Access(keys, TOKEN, database=rows, hours=2)
    assert access.sign_in(limited.token, address="here", now=NOW) is None


def test_too_many_wrong_tokens_have_to_wait_a_minute_and_only_their_sender(keys: KeyRing, rows: Database) -> None:
    access = Access(keys, TOKEN, database=rows, hours=2)
    for _ in range(TRIES):
        assert not access.must_wait("here", now=NOW)
        access.sign_in("wrong", address="here", now=NOW)
    assert access.must_wait("here", now=NOW)
    assert not access.must_wait("there", now=NOW)
    assert not access.must_wait("here", now=NOW + timedelta(minutes=1))


def test_a_form_token_belongs_to_one_session(keys: KeyRing, rows: Database) -> None:
    access = Access(keys, TOKEN, database=rows, hours=2)
    one, other = (access.read(opened(access), now=NOW) for _ in range(2))
    assert one is not None
    assert other is not None
    assert access.is_form_token(one, access.form_token(one))
    assert not access.is_form_token(other, access.form_token(one))
    assert not access.is_form_token(one, "")


@pytest.mark.parametrize(
    ("wanted", "goes"),
    [
        ("/projects/a/queue?page=2", "/projects/a/queue?page=2"),
        (None, "/"),
        ("", "/"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("/a\r\nSet-Cookie: x", "/"),
        ("javascript:alert(1)", "/"),
    ],
)
def test_after_signing_in_one_stays_here(wanted: str | None, goes: str) -> None:
    assert local_path(wanted) == goes


def test_the_token_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    assert load_dashboard_token(tmp_path) is None
    token = ensure_dashboard_token(tmp_path)
    assert len(token) >= 32
    assert ensure_dashboard_token(tmp_path) == token
    assert stat.S_IMODE(os.stat(dashboard_token_path(tmp_path)).st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["dashboard-token"]


def test_an_empty_token_file_is_no_open_door(tmp_path: Path) -> None:
    dashboard_token_path(tmp_path).write_text("\n")
    with pytest.raises(BadInput, match="holds no token"):
        ensure_dashboard_token(tmp_path)
