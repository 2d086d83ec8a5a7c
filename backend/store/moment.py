"""One moment of the whole database, read while others write: rows by table as COPY writes them, and their blobs.

Everything is read in one REPEATABLE READ transaction, so that no row speaks of another that is not there. Rows and no
SQL: whoever restores them makes the tables by the migrations and runs nothing that came from a file.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from psycopg import sql
from sqlalchemy import Connection, Engine, MetaData, text
from sqlalchemy.orm import Session

from backend.store import events, projects
from backend.store.backup_manifest import Part, ProjectHead, TableRows
from backend.store.tables import Base

_GZIP_LEVEL = 3  # rows shrink five- to tenfold at once; more would cost more time than it saves


class Moment:
    """An open moment. Close it soon: the server keeps dead rows for as long."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def schema(self) -> str:
        """The migration that made the tables; empty when none did."""
        known = self._connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
        return str(self._connection.scalar(text("SELECT version_num FROM alembic_version"))) if known else ""

    def tables(self) -> dict[str, TableRows]:
        """Every table of ours."""
        found = {}
        for name, table in sorted(Base.metadata.tables.items()):
            rows = self._one(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(name)))
            last = self._one(sql.SQL("SELECT last_value FROM {}").format(sql.Identifier(f"{name}_id_seq")))
            found[name] = TableRows(tuple(c.name for c in table.columns), rows, last)
        return found

    def heads(self) -> tuple[tuple[ProjectHead, ...], str | None]:
        """Champion and chain head of every project, and the installation's chain head."""
        with Session(self._connection, expire_on_commit=False) as session:
            rows = tuple(
                ProjectHead(
                    key=project.key,
                    champion=None if project.champion_id is None else projects.champion(session, project).version,
                    chain_head=events.chain_head(session, project.id),
                )
                for project in projects.all_of(session)
            )
            return rows, events.chain_head(session, None)

    def write_rows(self, table: str, columns: tuple[str, ...], target: Path) -> Part:
        """The rows of one table by id, packed."""
        words = sql.SQL("COPY (SELECT {} FROM {} ORDER BY id) TO STDOUT").format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.Identifier(table)
        )
        with _packed(target) as packed, self._cursor() as cursor, cursor.copy(words) as rows:
            for piece in rows:
                packed.write(bytes(piece))
        return packed.part

    def write_blob_list(self, target: Path, tables: MetaData = Base.metadata) -> Part:
        """Every blob that a row names, each once, in order: one digest a line."""
        with _packed(target) as packed, self._cursor() as cursor, cursor.copy(blob_query(tables)) as rows:
            for piece in rows:
                packed.write(bytes(piece))
        return packed.part

    def _cursor(self):  # type: ignore[no-untyped-def]  # psycopg's, behind SQLAlchemy's
        driver = self._connection.connection.driver_connection
        assert driver is not None
        return driver.cursor()

    def _one(self, query: sql.Composed) -> int:
        with self._cursor() as cursor:
            row = cursor.execute(query).fetchone()
        return int(row[0]) if row else 0


@contextmanager
def open_moment(engine: Engine) -> Iterator[Moment]:
    """One moment of the database, read only."""
    isolated = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with isolated.connect() as connection:
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        yield Moment(connection)
        connection.rollback()


def blob_columns(metadata: MetaData) -> list[tuple[str, str]]:
    """Where rows name blobs, by table and column: the columns called ``blob`` or ``..._blob``."""
    return [
        (name, column.name)
        for name, table in sorted(metadata.tables.items())
        for column in table.columns
        if column.name == "blob" or column.name.endswith("_blob")
    ]


def blob_query(metadata: MetaData) -> sql.Composed:
    """COPY of all blobs that rows name. Sorted by bytes, whatever the server's language."""
    parts = [
        sql.SQL("SELECT {column} AS blob FROM {table} WHERE {column} IS NOT NULL").format(
            column=sql.Identifier(column), table=sql.Identifier(table)
        )
        for table, column in blob_columns(metadata)
    ]
    union = sql.SQL(" UNION ").join(parts)
    return sql.SQL('COPY (SELECT blob FROM ({}) AS named ORDER BY blob COLLATE "C") TO STDOUT').format(union)


class Packed:
    """A gzip file in the making that knows its hash and sizes."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target, self._sha256, self._bytes, self._raw = target, hashlib.sha256(), 0, 0
        self._gzip = gzip.GzipFile(fileobj=self._Tee(self), mode="wb", compresslevel=_GZIP_LEVEL, mtime=0)  # type: ignore[call-overload]

    class _Tee:
        def __init__(self, packed: Packed) -> None:
            self._packed = packed

        def write(self, piece: bytes) -> int:
            self._packed._sha256.update(piece)
            self._packed._bytes += len(piece)
            return self._packed._target.write(piece)

        def flush(self) -> None:
            self._packed._target.flush()

    def write(self, piece: bytes) -> None:
        self._raw += len(piece)
        self._gzip.write(piece)

    def close(self) -> None:
        self._gzip.close()

    @property
    def part(self) -> Part:
        """What was written; after closing."""
        return Part(self._sha256.hexdigest(), self._bytes, self._raw)


@contextmanager
def _packed(target: Path) -> Iterator[Packed]:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with target.open("xb") as file:
        packed = Packed(file)
        yield packed
        packed.close()
