"""Bring a database to the newest schema, from code: `upgrade(url)`.

An advisory lock lets two starters race safely; time limits keep a migration from freezing the system.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine

from migrations.revisions import revisions


def configuration(url: str) -> Config:
    """Alembic's configuration for this package, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Run every migration that is missing."""
    command.upgrade(configuration(url), revision)


def newest_schema() -> str:
    """The revision of the newest migration that this version has."""
    return revisions()[0]


def knows_schema(revision: str) -> bool:
    """Whether this version has that migration; one that it has not was made by a newer version."""
    return revision in revisions()


def current_revision(url: str) -> str | None:
    """The step at which a database stands; None before the first."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
