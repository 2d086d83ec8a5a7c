"""A restore that was killed is ended by the next, an old backup is brought up to date, old files are set aside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import MetaData, func, select, text

from backend.actions.restore_backup import restore_backup
from backend.servers import EmbeddedPostgres
from backend.store import projects
from backend.store.backup_manifest import BLOB_LIST, MANIFEST, Manifest, ProjectHead, TableRows, rows_part
from backend.store.backup_source import open_source
from backend.store.blobs import BlobFolder
from backend.store.moment import open_moment
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Event
from migrations.run import newest_schema, upgrade
from tests.backend.actions.backup.kept import backed_up, content, row_count
from tests.builders import Installation

pytestmark = pytest.mark.database


# What a restore does at a line where it is killed; the second call must end it, whichever line that was.
KILLED = """
import os, signal, sys
from pathlib import Path
from backend.actions import restore_backup as module
from backend.store.backup_source import open_source
from backend.store.blobs import BlobFolder

url, state, source, line = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]
before = getattr(module, line)
def die(*arguments, **options):
    if line == "_into_place":  # committed; the first file is in its place, the others are not
        first = sorted((state / module.WAITING).iterdir())[0]
        first.rename(state / first.name)
    elif line != "upgrade":
        before(*arguments, **options)
    os.kill(os.getpid(), signal.SIGKILL)
setattr(module, line, die)
module.restore_backup(url, BlobFolder(state / "blobs"), state, open_source(source))
"""


@pytest.mark.parametrize(
    ("line", "rows_after"),
    [("upgrade", False), ("_keep_waiting", False), ("load", False), ("check_blobs", False), ("_into_place", True)],
)
def test_a_restore_that_is_killed_anywhere_is_ended_by_the_next(
    made: Installation, empty_database_url: str, tmp_path: Path, line: str, rows_after: bool
) -> None:
    backed_up(made, tmp_path / "backups")
    state = tmp_path / "second"
    command = [sys.executable, "-c", KILLED, empty_database_url, str(state), str(tmp_path / "backups"), line]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert (row_count(empty_database_url) > 0) == rows_after
    report = restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, open_source(tmp_path / "backups"))
    assert report.finished == rows_after
    again = Database(empty_database_url)
    assert content(again) == content(made.database)
    with again.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Event).where(Event.what == "restored")) == 1
    again.close()
    assert KeyRing.at(state / "key").key_id == made.keys.key_id
    assert not (state / "restoring").exists()


def test_a_cut_restore_of_an_installation_that_was_once_restored_is_ended_too(
    made: Installation, empty_database_url: str, tmp_path: Path
) -> None:
    with made.database.transaction() as session:
        session.add(Event(actor="restore", what="restored", subject="backup", after={"backup": "an earlier one"}))
    backed_up(made, tmp_path / "backups")
    state = tmp_path / "second"
    command = [sys.executable, "-c", KILLED, empty_database_url, str(state), str(tmp_path / "backups"), "_into_place"]
    assert subprocess.run(command, check=False, capture_output=True).returncode == -9
    report = restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, open_source(tmp_path / "backups"))
    assert report.finished
    assert KeyRing.at(state / "key").key_id == made.keys.key_id


def test_a_backup_of_the_first_version_is_brought_up_to_date(
    postgres: EmbeddedPostgres, empty_database_url: str, tmp_path: Path
) -> None:
    old_url = postgres.create_database("of_the_first_version")
    upgrade(old_url, "0001")
    old = Database(old_url)
    with old.transaction() as session:
        session.execute(text("INSERT INTO project (key, title, classes, policy) VALUES ('old', 'Old', '[]', '{}')"))
        session.execute(text("DELETE FROM project WHERE key = 'old'"))
        session.execute(text("INSERT INTO project (key, title, classes, policy) VALUES ('kept', 'Kept', '[]', '{}')"))
    folder = tmp_path / "backups" / "20200101T000000Z"
    tables = MetaData()
    tables.reflect(old.engine)
    columns = {n: tuple(c.name for c in t.columns) for n, t in tables.tables.items() if n != "alembic_version"}
    tables.remove(tables.tables["alembic_version"])
    with open_moment(old.engine) as moment:
        parts = {rows_part(n): moment.write_rows(n, c, folder / rows_part(n)) for n, c in columns.items()}
        parts[BLOB_LIST] = moment.write_blob_list(folder / BLOB_LIST, tables)
    manifest = Manifest(
        product="0.0.1",
        schema="0001",
        made_at="2020-01-01T00:00:00+00:00",
        tables={n: TableRows(c, int(n == "project"), 2 if n == "project" else 1) for n, c in columns.items()},
        parts=parts,
        projects=(ProjectHead("kept", None, None),),
        chain_head=None,
        blobs=0,
        blob_bytes=0,
        missing=(),
        secrets=True,
        label_studio="none",
    )
    (folder / MANIFEST).write_bytes(manifest.to_json())
    old.close()
    postgres.drop_database("of_the_first_version")

    restore_backup(
        empty_database_url, BlobFolder(tmp_path / "b"), tmp_path / "second", open_source(tmp_path / "backups")
    )
    again = Database(empty_database_url)
    with again.transaction() as session:
        (project,) = projects.all_of(session)
        assert (project.id, project.key) == (2, "kept")
        assert session.scalar(text("SELECT version_num FROM alembic_version")) == newest_schema()
    again.close()


def test_files_that_were_in_their_places_are_set_aside(
    made: Installation, empty_database_url: str, tmp_path: Path
) -> None:
    backed_up(made, tmp_path / "backups")
    state = tmp_path / "second"
    other = KeyRing.at(state / "key").key_id
    report = restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, open_source(tmp_path / "backups"))
    assert report.set_aside == ("key",)
    assert KeyRing.at(state / "key").key_id == made.keys.key_id
    assert KeyRing.at(state / "before-restore" / "key").key_id == other
