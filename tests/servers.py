"""Servers for tests: one PostgreSQL and one Redis a session, a fresh migrated database a test.

    database_url    the URL of a database of this test's own, with all tables
    empty_database_url    the same without tables
    redis_url       the URL of a broker without keys, in Celery's words
    servers_state   the state folder of the embedded servers
    team_servers    servers that the product did not start, whatever the profile

`MPAMATCH_TEST_PROFILE` says whose servers the first three are on: `embedded`, the product's own, is the default; `team`
is Debian's, behind passwords on ports. Each leaves out what is marked with the other's name.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backend.servers import EmbeddedPostgres, EmbeddedRedis
from tests import team_servers as team
from tests.team_servers import TeamPostgres, TeamRedis, TeamServers

# Read at once: the environment is cleaned of our names before the first test.
PROFILE = os.environ.get("MPAMATCH_TEST_PROFILE") or "embedded"
PROFILES = ("embedded", "team")
_TEMPLATE = "template_of_tests"
# Nothing here outlives the session, so nothing needs to reach the disk.
_FORGETFUL = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}
_numbers = itertools.count(1)
_running: list[TeamServers] = []


def pytest_configure() -> None:
    if PROFILE not in PROFILES:
        raise pytest.UsageError(f"MPAMATCH_TEST_PROFILE={PROFILE}: it is one of {', '.join(PROFILES)}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what only the other profile can run."""
    other = next(name for name in PROFILES if name != PROFILE)
    left_out = [item for item in items if item.get_closest_marker(other)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def started_team_servers() -> TeamServers:
    """The session's servers of others, started at the first call. Skips where Debian's programs are absent."""
    if not _running:
        programs = team.find_programs()
        if programs is None:
            team.absent()
        _running.append(TeamServers.start(programs, options=_FORGETFUL))
    return _running[0]


@contextmanager
def installation_urls() -> Iterator[dict[str, str]]:
    """What a whole installation has to be told of its servers in this profile: nothing, or where the others' are."""
    if PROFILE == "embedded":
        yield {}
        return
    database_url, broker_url = started_team_servers().take()
    yield {"database_url": database_url, "broker_url": broker_url}
    started_team_servers().postgres.drop_database(database_url.rpartition("/")[2])


@pytest.fixture(scope="session", autouse=True)
def _end_of_team_servers() -> Iterator[None]:
    yield
    while _running:
        _running.pop().stop()


@pytest.fixture(scope="session")
def team_servers() -> TeamServers:
    """Debian's PostgreSQL and Redis on ports, in either profile."""
    return started_team_servers()


@pytest.fixture(scope="session")
def servers_state() -> Iterator[Path]:
    """A short folder directly under the system's temporary one: the server's own user must be able to reach it."""
    state = Path(tempfile.mkdtemp(prefix="mpamatch-tests-"))
    yield state
    shutil.rmtree(state, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(servers_state: Path) -> Iterator[EmbeddedPostgres | TeamPostgres]:
    """The running server that all tests share."""
    if PROFILE == "team":
        yield started_team_servers().postgres
        return
    server = EmbeddedPostgres(servers_state, options=_FORGETFUL)
    child = server.start()
    yield server
    server.stop(child)


@pytest.fixture(scope="session")
def postgres_url(postgres: EmbeddedPostgres) -> str:
    """The URL of the server's own database; for tests of the server itself."""
    return postgres.url()


@pytest.fixture(scope="session")
def migrated_template(postgres: EmbeddedPostgres | TeamPostgres) -> str:
    """The name of a database with all tables, which others are copied from."""
    from migrations.run import upgrade

    upgrade(postgres.create_database(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def database_url(postgres: EmbeddedPostgres | TeamPostgres, migrated_template: str) -> Iterator[str]:
    """A database of this test's own, with all tables."""
    name = f"test_{next(_numbers)}"
    yield postgres.create_database(name, template=migrated_template)
    postgres.drop_database(name)


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres | TeamPostgres) -> Iterator[str]:
    """A database of this test's own, without any table."""
    name = f"test_{next(_numbers)}"
    yield postgres.create_database(name)
    postgres.drop_database(name)


@pytest.fixture(scope="session")
def redis_server(servers_state: Path) -> Iterator[EmbeddedRedis | TeamRedis]:
    """The running broker that all tests share."""
    if PROFILE == "team":
        yield started_team_servers().redis
        return
    server = EmbeddedRedis(servers_state)
    child = server.start()
    yield server
    server.stop(child)


@pytest.fixture
def redis_url(redis_server: EmbeddedRedis | TeamRedis) -> str:
    """The broker's URL, emptied of what the test before left."""
    import redis

    with redis.Redis.from_url(redis_server.plain_url) as client:
        client.flushdb()
    return redis_server.url
