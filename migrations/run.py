"""Bring a database to the newest schema, from code: `upgrade(url)`.

An advisory lock lets two starters race safely; time limits keep a migration from freezing the system.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config


def configuration(url: str) -> Config:
    """Alembic's configuration for this package, without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Run every migration that is missing."""
    command.upgrade(configuration(url), revision)
