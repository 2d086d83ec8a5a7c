"""Engine and session scope: the one way to reach the database.

Made from a URL by a factory, never at import. ``transaction`` is the only scope: it commits at its end and
rolls back on any error. Keep it short: never hold one over a model call or an HTTP call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from mpamatch.errors import Unavailable

POOL_SIZE = 4


class Database:
    """A pool of connections to one database."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE) -> None:
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=True,
            pool_timeout=10,
            connect_args={"options": "-c timezone=UTC -c idle_in_transaction_session_timeout=60000"},
        )
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction. Raises Unavailable when the database does not answer."""
        try:
            with self._sessions.begin() as session:
                yield session
        except OperationalError as error:
            raise Unavailable("database", "does not answer", "start `mpamatch up`, or wait until it is back") from error

    @contextmanager
    def advisory_lock(self, space: int, key: int) -> Iterator[bool]:
        """Try a lock that lives as long as its connection; yields whether it was free. Crash-safe: it dies with us."""
        with self.engine.connect() as connection:
            free = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:s, :k)"), {"s": space, "k": key}))
            connection.commit()
            try:
                yield free
            finally:
                if free:
                    connection.execute(text("SELECT pg_advisory_unlock(:s, :k)"), {"s": space, "k": key})
                    connection.commit()

    def close(self) -> None:
        self.engine.dispose()
