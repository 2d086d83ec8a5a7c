"""Servers for tests: one embedded PostgreSQL and Redis a session, a fresh migrated database a test.

    database_url    the URL of a database of this test's own, with all tables
    empty_database_url    the same without tables
    redis_url       the URL of a broker without keys, in Celery's words
    servers_state   the state folder of both
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.servers import EmbeddedPostgres, EmbeddedRedis

_TEMPLATE = "template_of_tests"
# Nothing here outlives the session, so nothing needs to reach the disk.
_FORGETFUL = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def servers_state() -> Iterator[Path]:
    """A short folder directly under the system's temporary one: the server's own user must be able to reach it."""
    state = Path(tempfile.mkdtemp(prefix="mpamatch-tests-"))
    yield state
    shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(servers_state: Path) -> Iterator[EmbeddedPostgres]:
    """The running server that all tests share."""
    server = EmbeddedPostgres(servers_state, options=_FORGETFUL)
    child = server.start()
    yield server
    server.stop(child)


@pytest.fixture(scope="session")
def postgres_url(postgres: EmbeddedPostgres) -> str:
    """The URL of the server's own database; for tests of the server itself."""
    return postgres.url()


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres) -> str:
    """The name of a database with all tables, which others are copied from."""
    from migrations.run import upgrade

    upgrade(postgres.create_database(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, migrated_template: str) -> Iterator[str]:
    """A database of this test's own, with all tables."""
    name = f"test_{next(_numbers)}"
    yield postgres.create_database(name, template=migrated_template)
    postgres.drop_database(name)


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database of this test's own, without any table."""
    name = f"test_{next(_numbers)}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def redis_server(servers_state: Path) -> Iterator[EmbeddedRedis]:
    """The running broker that all tests share."""
    server = EmbeddedRedis(servers_state)
    child = server.start()
    yield server
    server.stop(child)


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis) -> str:
    """The broker's URL, emptied of what the test before left."""
    import redis

    with redis.Redis.from_url(redis_server.plain_url) as client:
        client.flushall()
    return redis_server.url
