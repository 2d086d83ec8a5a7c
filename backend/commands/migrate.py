"""`mpamatch migrate`: bring the tables of a database to what this version needs. `up` does the same at its start."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from backend.settings import load_settings
from mpamatch.errors import Conflict, Unavailable

RETRY_S = 1.0
Answer = TypeVar("Answer")


def migrate(
    check: Annotated[bool, typer.Option("--check", help="change nothing; 1 when a step is missing")] = False,
    wait_s: Annotated[float, typer.Option(help="how long to wait for a database that does not answer yet")] = 60.0,
) -> None:
    """Make or change the tables, every missing step; doing it again, or by two at once, changes nothing more."""
    url = load_settings().require_database_url()
    if not check:
        _patiently(lambda: migrate_database(url), wait_s)
    current, newest = _patiently(lambda: revisions(url), wait_s)
    if current != newest:
        raise Conflict("database", f"stands at step {current or 'none'}, not at {newest}", "run `mpamatch migrate`")
    print(f"database: at step {current}")


def migrate_database(url: str) -> None:
    """Run every migration that is missing. Raises Unavailable when the database cannot be used."""
    from migrations.run import upgrade

    _told(lambda: upgrade(url))


def revisions(url: str) -> tuple[str | None, str | None]:
    """Where the database stands, and the newest step of this version. Raises Unavailable."""
    from migrations.run import current_revision, newest_schema

    return _told(lambda: (current_revision(url), newest_schema()))


def _told(ask: Callable[[], Answer]) -> Answer:
    """The answer, or in one line why there is none."""
    from sqlalchemy.exc import OperationalError

    try:
        return ask()
    except OperationalError as error:
        said = str(error.orig).strip().splitlines()
        problem = f"cannot be used: {said[0] if said else 'no answer'}"
        raise Unavailable("database", problem, "check MPAMATCH_DATABASE_URL") from error


def _patiently(ask: Callable[[], Answer], wait_s: float) -> Answer:
    """Ask again while the database does not answer: beside a server that is starting, too early is no error."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return ask()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(RETRY_S)
