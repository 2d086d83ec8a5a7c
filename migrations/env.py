"""Alembic's entry: one connection, one transaction per migration, an advisory lock around all of them."""

from __future__ import annotations

from alembic import context
from sqlalchemy import create_engine, text

from backend.store.tables import Base

LOCK = 7_213_001


def run() -> None:
    url = context.config.attributes["url"]
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(text("SET lock_timeout = '30s'"))
        connection.execute(text("SET statement_timeout = '10min'"))
        connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": LOCK})
        connection.commit()
        try:
            context.configure(connection=connection, target_metadata=Base.metadata, transaction_per_migration=True)
            with context.begin_transaction():
                context.run_migrations()
        finally:
            connection.rollback()
            connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": LOCK})
            connection.commit()
    engine.dispose()


run()
