"""Put the rows of a backup into a database without any: tables by our migrations, rows by COPY, all in one transaction.

A backup holds rows and no SQL, so nothing of it is ever executed; the server checks each row against the types, keys
and constraints of the tables. Which tables and columns there are must be exactly what the migrations made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import psycopg
from psycopg import sql
from sqlalchemy import Connection, Engine, MetaData, text

from backend.store.backup_manifest import TableRows
from backend.store.moment import blob_query
from backend.store.tables import Base
from mpamatch.errors import BadInput, Conflict

_VERSION_TABLE = "alembic_version"

Rows = Callable[[str], Iterable[bytes]]


def empty_out(engine: Engine) -> None:
    """Drop our tables when no row is in them, so that those of the backup's version can be made.

    Raises Conflict when a row or a table of somebody else is there: a restore never takes the place of anything.
    """
    with engine.begin() as connection:
        names = _tables(connection)
        strangers = sorted(names - set(Base.metadata.tables) - {_VERSION_TABLE})
        if strangers:
            raise Conflict("database", f"holds other tables ({', '.join(strangers[:3])})", "name an empty database")
        driver = _driver(connection)
        for name in sorted(names - {_VERSION_TABLE}):
            driver.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE NOWAIT").format(sql.Identifier(name)))
            if driver.execute(sql.SQL("SELECT 1 FROM {} LIMIT 1").format(sql.Identifier(name))).fetchone():
                remedy = "restore into a new state folder (MPAMATCH_STATE) or an empty database"
                raise Conflict("database", f"is not empty: there are rows in {name}", remedy)
        for name in sorted(names):
            driver.execute(sql.SQL("DROP TABLE IF EXISTS {} CASCADE").format(sql.Identifier(name)))


def check_tables(engine: Engine, tables: Mapping[str, TableRows], item: str) -> None:
    """Raises BadInput when a backup has other tables or columns than the database has now."""
    with engine.connect() as connection:
        there: dict[str, set[str]] = {}
        rows = connection.execute(
            text(
                "SELECT table_name, column_name FROM information_schema.columns"
                " WHERE table_schema = current_schema() AND table_name <> :version"
            ),
            {"version": _VERSION_TABLE},
        )
        for table, column in rows:
            there.setdefault(table, set()).add(column)
    held = {name: set(one.columns) for name, one in tables.items()}
    if held != there:
        differing = sorted(name for name in held.keys() | there.keys() if held.get(name) != there.get(name))
        raise BadInput(item, f"has other tables or columns ({', '.join(differing[:3])})", "take another backup")


def load(connection: Connection, tables: Mapping[str, TableRows], rows: Rows, item: str) -> None:
    """Copy every row in; the caller's transaction decides. Raises BadInput for rows that the tables do not take."""
    driver = _driver(connection)
    foreign = driver.execute(
        "SELECT conrelid::regclass::text, conname FROM pg_constraint c JOIN pg_namespace n ON n.oid = c.connamespace"
        " WHERE contype = 'f' AND nspname = current_schema()"
    ).fetchall()
    try:
        # Projects name models and models projects: keys between tables are looked at when all rows are there.
        for table, name in foreign:
            _alter(driver, table, name, "DEFERRABLE INITIALLY DEFERRED")
        for table, held in sorted(tables.items()):
            _copy_in(driver, table, held, rows(table), item)
        driver.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table, name in foreign:
            _alter(driver, table, name, "NOT DEFERRABLE")
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        said = str(error).strip().splitlines()[0]
        raise BadInput(item, f"holds rows that do not fit: {said}", "take another backup") from error


def check_blobs(connection: Connection, named: Iterator[str], item: str) -> None:
    """Raises BadInput unless the rows name exactly the blobs that the backup lists."""
    with _driver(connection).cursor().copy(blob_query(_present(connection))) as found:
        for row in found.rows():
            if row[0] != next(named, None):
                raise BadInput(item, "lists other blobs than its rows name", "take another backup")
    if next(named, None) is not None:
        raise BadInput(item, "lists other blobs than its rows name", "take another backup")


def forget_credentials(connection: Connection) -> None:
    """What was sealed with a key that is not there can be read by nobody: `connect` makes new ones."""
    connection.execute(text("UPDATE project SET ls_token = NULL, ls_auth_password = NULL, ls_webhook_secret = NULL"))


def end_sessions(connection: Connection) -> None:
    """Whoever was signed in at the time of the backup signs in again: a sign-out after it is not in the rows."""
    if "session" in _tables(connection):  # an older version had none
        connection.execute(text("UPDATE session SET ended_at = now() WHERE ended_at IS NULL"))


def leave_label_studio(connection: Connection) -> None:
    """Our own Label Studio did not come along: its projects, tasks and annotations are no more, the labels stay.

    Another one counts from 1 again, so the numbers of the old one are put out of its way, and its projects have our own
    configuration. A project that was adopted from another server keeps everything: that one is still there.
    """
    adopting = "ls_elsewhere" in {column.name for column in _present(connection).tables["project"].columns}
    query = "SELECT id FROM project WHERE NOT ls_elsewhere" if adopting else "SELECT id FROM project"
    ours = list(connection.scalars(text(query)))
    for words in (
        "UPDATE annotation a SET ls_task_id = -t.id FROM task t"
        " WHERE t.project_id = a.project_id AND t.ls_task_id = a.ls_task_id AND a.project_id = ANY(:ours)",
        "UPDATE annotation SET ls_annotation_id = -id WHERE ls_annotation_id IS NOT NULL AND project_id = ANY(:ours)",
        "UPDATE task SET ls_task_id = -id, state = 'gone' WHERE project_id = ANY(:ours)",
        "UPDATE queue_entry SET state = 'open', lease_holder = NULL, lease_until = NULL"
        " WHERE state = 'leased' AND project_id = ANY(:ours)",
        "UPDATE project SET ls_url = NULL, ls_project_id = NULL, ls_token = NULL, ls_model_version = NULL,"
        " ls_cursor = NULL, ls_compared_at = NULL WHERE id = ANY(:ours)",
    ):
        connection.execute(text(words), {"ours": ours})
    if adopting:
        words = "UPDATE project SET ls_controls = NULL, ls_problem = NULL WHERE id = ANY(:ours)"
        connection.execute(text(words), {"ours": ours})


def _copy_in(driver: psycopg.Connection, table: str, held: TableRows, rows: Iterable[bytes], item: str) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, held.columns))
    words = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), columns)
    with driver.cursor() as cursor:
        with cursor.copy(words) as target:
            for piece in rows:
                target.write(piece)
        count = cursor.execute(sql.SQL("SELECT count(*), max(id) FROM {}").format(sql.Identifier(table))).fetchone()
        assert count is not None
        if count[0] != held.rows:
            raise BadInput(
                item, f"has {count[0]} rows of {table}, its manifest says {held.rows}", "take another backup"
            )
        # Never give out an id again that somebody may have noted, that of a removed row included.
        last = max(held.last_id, count[1] or 1)
        given = held.rows > 0 or held.last_id > 1
        cursor.execute("SELECT setval(%s::regclass, %s, %s)", (f"{table}_id_seq", last, given))


def _alter(driver: psycopg.Connection, table: str, constraint: str, how: str) -> None:
    driver.execute(
        sql.SQL("ALTER TABLE {} ALTER CONSTRAINT {} {}").format(
            sql.Identifier(table),
            sql.Identifier(constraint),
            sql.SQL(how),  # type: ignore[arg-type]
        )
    )


def _tables(connection: Connection) -> set[str]:
    rows = connection.scalars(
        text("SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()")
    )
    return set(rows)


def _present(connection: Connection) -> MetaData:
    """The tables as they are: those of an older backup may lack a column of today."""
    found = MetaData()
    found.reflect(connection)
    return found


def _driver(connection: Connection) -> psycopg.Connection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
