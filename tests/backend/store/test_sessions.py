from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from backend.store import sessions
from backend.store.sessions import Database
from mpamatch.errors import Unavailable

pytestmark = pytest.mark.database


def test_nobody_waits_for_ever_for_a_table_that_another_holds(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "LOCK_TIMEOUT_S", 1)
    database = Database(database_url)
    with database.transaction() as holder:
        holder.execute(text("LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE"))
        with pytest.raises(Unavailable, match="held for 1 s by another"), database.transaction() as session:
            session.execute(text("SELECT count(*) FROM inbox"))
    with database.transaction() as session:
        assert session.scalar(text("SELECT count(*) FROM inbox")) == 0
    database.close()


def test_a_connection_that_the_server_ended_is_said_as_unavailable_and_the_next_one_works(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(Unavailable, match="does not answer"), database.transaction() as session:
        session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    with database.transaction() as session:
        assert session.scalar(text("SELECT 1")) == 1
    database.close()


def test_a_server_that_is_not_there_is_waited_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "CONNECT_PATIENCE_S", 0.3)
    database = Database("postgresql+psycopg://mpamatch@/nowhere?host=/nonexistent")
    with pytest.raises(Unavailable, match="does not answer"), database.transaction():
        pass
    with pytest.raises(Unavailable, match="does not answer"), database.advisory_lock(1, 2):
        pass
    database.close()


def test_when_no_connection_is_free_a_caller_is_told_to_try_later(database_url: str) -> None:
    database = Database(database_url, pool_size=1)
    monkey = database.engine.pool
    monkey._timeout = 0.2  # type: ignore[attr-defined]
    with database.transaction(), database.transaction(), pytest.raises(Unavailable), database.transaction():
        pass
    database.close()


def test_a_broken_rule_stays_what_it_is(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(IntegrityError), database.transaction() as session:
        session.execute(text("INSERT INTO tile (id) VALUES (1)"))
    database.close()
