"""Engine and session scope: the one way to reach the database.

Made from a URL by a factory, never at import. ``transaction`` is the only scope: it commits at its end and
rolls back on any error. Keep it short: never hold one over a model call or an HTTP call.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DataError, DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker

from mpamatch.errors import BadInput, Unavailable

POOL_SIZE = 4
# A server that restarts is back within seconds: a caller waits that long for a connection, and not longer.
CONNECT_PATIENCE_S = 3.0
CONNECT_PAUSE_S = 0.1
# Nobody waits longer than this for a row or table that another transaction holds.
LOCK_TIMEOUT_S = 10
LOCK_NOT_AVAILABLE = "55P03"
# Numbers beyond bigint, and characters that no text column holds. psycopg refuses a NUL by itself, without a code.
_UNSTORABLE = frozenset({"22003", "22021", "22P05", None})


class Database:
    """A pool of connections to one database."""

    def __init__(self, url: str, *, pool_size: int = POOL_SIZE) -> None:
        self.engine: Engine = create_engine(
            url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=True,
            pool_timeout=10,
            # An error's text goes to the log, and a row's values (labels, tokens) must not.
            hide_parameters=True,
            connect_args={
                "connect_timeout": 5,
                "options": "-c timezone=UTC -c idle_in_transaction_session_timeout=60000"
                f" -c lock_timeout={LOCK_TIMEOUT_S}s",
            },
        )
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction. Raises Unavailable when the database does not answer, or a lock is not to be had, and
        BadInput for what no column can hold: an address such as /runs/99999999999999999999 comes to that.

        Connecting is tried again for a moment; what was begun never is: whether it happened would not be known.
        """
        try:
            with self._sessions.begin() as session:
                self._connect(session)
                yield session
        except (DBAPIError, PoolTimeout) as error:
            known = _known(error)
            if known is error:
                raise
            raise known from error

    def _connect(self, session: Session) -> None:
        deadline = time.monotonic() + CONNECT_PATIENCE_S
        while True:
            try:
                session.connection()
                return
            except OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(CONNECT_PAUSE_S)

    @contextmanager
    def advisory_lock(self, space: int, key: int) -> Iterator[bool]:
        """Try a lock that lives as long as its connection; yields whether it was free. Crash-safe: it dies with us.

        Raises Unavailable when the database does not answer.
        """
        try:
            connection = self.engine.connect()
        except OperationalError as error:
            raise _known(error) from error
        with connection:
            free = bool(connection.scalar(text("SELECT pg_try_advisory_lock(:s, :k)"), {"s": space, "k": key}))
            connection.commit()
            try:
                yield free
            finally:
                if free:
                    with suppress(OperationalError):  # the server that held it is gone, and the lock with it
                        connection.execute(text("SELECT pg_advisory_unlock(:s, :k)"), {"s": space, "k": key})
                        connection.commit()

    def close(self) -> None:
        self.engine.dispose()


def _known(error: Exception) -> Exception:
    """What a caller can do about it: try later, or send something else. Any other mistake stays what it is."""
    if isinstance(error, DataError) and getattr(error.orig, "sqlstate", None) in _UNSTORABLE:
        return BadInput("value", "cannot be stored: too large a number, or a NUL character", "correct it")
    if isinstance(error, DBAPIError):
        if getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE:
            return Unavailable("database", f"what is asked for was held for {LOCK_TIMEOUT_S} s by another", "try again")
        if not (error.connection_invalidated or isinstance(error, OperationalError)):
            return error
    return Unavailable("database", "does not answer", "start `mpamatch up`, or wait until it is back")
