"""Tokens: shown once, kept as a digest, refused at once when revoked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text

from backend.store import tokens
from backend.store.sessions import Database
from backend.store.tables import Event, Token
from mpamatch.errors import BadInput, Conflict, NotFound

pytestmark = pytest.mark.database
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    yield made
    made.close()


def create(database: Database, **given: object) -> tokens.NewToken:
    values = {"name": "script", "role": "viewer", "project_id": None, "expires_at": None, "now": NOW, "actor": "test"}
    with database.transaction() as session:
        return tokens.create(session, **{**values, **given})  # type: ignore[arg-type]


def known(database: Database, token: str, now: datetime = NOW) -> Token | None:
    with database.transaction() as session:
        return tokens.authenticate(session, token, now=now)


def test_a_token_is_known_by_itself_alone(database: Database) -> None:
    made, other = create(database), create(database)
    found = known(database, made.token)
    assert found is not None
    assert found.id == made.row.id
    key_id, secret = made.token.split("_", 2)[1:]
    others_secret = other.token.split("_", 2)[2]
    swapped = "A" if secret[0] != "A" else "B"
    for wrong in (
        f"mpa_{key_id}_{swapped}{secret[1:]}",
        f"mpa_{key_id}_{others_secret}",
        f"mpa_{'0' * 12}_{secret}",
        made.token[:-1],
        made.token + "x",
        made.token + "\n",
        f"mpa_{key_id}_",
        secret,
        key_id,
        "",
        "mpa_%_" + secret,
        "\ud800",
    ):
        assert known(database, wrong) is None, wrong


def test_the_token_is_nowhere_in_the_database(database: Database) -> None:
    made = create(database)
    secret = made.token.split("_", 2)[2]
    with database.transaction() as session:
        rows = session.execute(text("SELECT token::text, (SELECT string_agg(event::text, ' ') FROM event) FROM token"))
        written = " ".join(str(part) for row in rows for part in row)
    assert made.row.key_id in written
    assert secret not in written
    assert secret.encode().hex() not in written
    assert secret not in repr(made)


def test_a_revoked_token_is_refused_by_the_next_request(database: Database) -> None:
    made = create(database)
    with database.transaction() as session:
        tokens.revoke(session, made.row.key_id, now=NOW, actor="operator")
    assert known(database, made.token) is None
    with pytest.raises(Conflict), database.transaction() as session:
        tokens.revoke(session, made.row.key_id, now=NOW, actor="operator")
    with pytest.raises(NotFound), database.transaction() as session:
        tokens.revoke(session, "nobody", now=NOW, actor="operator")


def test_a_token_ends_at_its_time(database: Database) -> None:
    made = create(database, expires_at=NOW + timedelta(days=1))
    assert known(database, made.token, NOW + timedelta(hours=23)) is not None
    assert known(database, made.token, NOW + timedelta(days=1)) is None
    with pytest.raises(BadInput):
        create(database, expires_at=NOW)


def test_its_use_is_noted_but_not_every_second(database: Database) -> None:
    made = create(database)
    for seconds, noted in ((0, 0), (30, 0), (61, 61)):
        known(database, made.token, NOW + timedelta(seconds=seconds))
        with database.transaction() as session:
            assert session.get_one(Token, made.row.id).last_used_at == NOW + timedelta(seconds=noted)


def test_making_and_revoking_leave_events_without_the_token(database: Database) -> None:
    made = create(database, role="operator")
    with database.transaction() as session:
        tokens.revoke(session, made.row.key_id, now=NOW, actor="operator")
    with database.transaction() as session:
        seen = session.execute(select(Event.what, Event.after).order_by(Event.id)).all()
    assert [what for what, _ in seen] == ["token created", "token revoked"]
    assert seen[0][1] == {"key_id": made.row.key_id, "role": "operator", "expires_at": None}


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "a\nb", "a\x00b"])
def test_a_name_that_says_nothing_is_refused(database: Database, name: str) -> None:
    with pytest.raises(BadInput):
        create(database, name=name)


def test_a_role_that_does_not_exist_is_refused(database: Database) -> None:
    with pytest.raises(BadInput, match="viewer, annotator, operator"):
        create(database, role="admin")
