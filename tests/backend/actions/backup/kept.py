"""Making a backup, and what a database holds before and after: for the tests of both."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import inspect, text

from backend.actions.back_up import BackupReport, back_up
from backend.clock import utc_now
from backend.store.sessions import Database
from backend.store.tables import Base
from tests.builders import Installation


def backed_up(made: Installation, destination: Path, **options: object) -> BackupReport:
    return back_up(made.database, made.blobs, made.folder, destination, now=utc_now(), **options)  # type: ignore[arg-type]


def content(database: Database) -> dict[str, list[str]]:
    """Every row of every table as text, but for what a restore itself notes."""
    found = {}
    with database.transaction() as session:
        for name in sorted(Base.metadata.tables):
            rows = session.scalars(text(f"SELECT t::text FROM {name} t ORDER BY id"))
            found[name] = [row for row in rows if not (name == "event" and ",restore,restored," in row)]
    return found


def row_count(url: str) -> int:
    database = Database(url)
    try:
        with database.transaction() as session:
            there = inspect(database.engine).get_table_names()
            return sum(
                session.scalar(text(f"SELECT count(*) FROM {name}")) for name in there if name in Base.metadata.tables
            )
    finally:
        database.close()
