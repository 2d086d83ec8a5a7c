"""`mpamatch migrate`, on a database that somebody else runs or does not run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import sqlalchemy

from migrations.run import newest_schema
from tests.flows.stack import COMMAND
from tests.team_servers import free_port

pytestmark = pytest.mark.database


def _started(url: str, state: Path, *options: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "MPAMATCH_STATE": str(state), "MPAMATCH_DATABASE_URL": url}
    return subprocess.Popen(
        [*COMMAND, "migrate", *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_at_once_make_the_tables_and_the_check_says_so(empty_database_url: str, tmp_path: Path) -> None:
    early = _started(empty_database_url, tmp_path, "--check", "--wait-s", "0")
    _, said = early.communicate(timeout=60)
    assert early.returncode == 1
    assert "stands at step none" in said
    assert "run `mpamatch migrate`" in said

    both = [_started(empty_database_url, tmp_path) for _ in range(2)]
    for one in both:
        told, said = one.communicate(timeout=120)
        assert one.returncode == 0, said
        assert told.strip() == f"database: at step {newest_schema()}"
    late = _started(empty_database_url, tmp_path, "--check")
    assert late.wait(60) == 0
    engine = sqlalchemy.create_engine(empty_database_url)
    assert "prediction" in sqlalchemy.inspect(engine).get_table_names()
    engine.dispose()
    for one in (early, late):
        one.communicate()


def test_a_database_that_does_not_answer_is_said_in_one_line_after_the_wait(tmp_path: Path) -> None:
    url = f"postgresql+psycopg://nobody:secret-word@127.0.0.1:{free_port()}/nothing"
    tried = _started(url, tmp_path, "--wait-s", "1.5")
    _, said = tried.communicate(timeout=60)
    assert tried.returncode == 1
    (line,) = said.strip().splitlines()
    assert line.startswith("mpamatch: database: cannot be used")
    assert "secret-word" not in line


@pytest.mark.parametrize("missing", ["none", "database", "broker"])
def test_a_worker_s_check_names_what_does_not_answer(
    database_url: str, redis_url: str, tmp_path: Path, missing: str
) -> None:
    environment = {
        **os.environ,
        "MPAMATCH_STATE": str(tmp_path),
        "MPAMATCH_DATABASE_URL": database_url,
        "MPAMATCH_BROKER_URL": redis_url,
    }
    if missing == "database":
        environment["MPAMATCH_DATABASE_URL"] = f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/nothing"
    elif missing == "broker":
        environment["MPAMATCH_BROKER_URL"] = f"redis://127.0.0.1:{free_port()}/0"
    done = subprocess.run(
        [*COMMAND, "worker", "--check"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == (0 if missing == "none" else 1), done.stderr
    assert missing == "none" or done.stderr.splitlines()[-1].startswith(f"mpamatch: {missing}: does not answer")
