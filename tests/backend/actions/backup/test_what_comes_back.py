"""What a restore brings back is what was there, of one moment, however much happens meanwhile."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, select

from backend.actions.restore_backup import restore_backup
from backend.store import events, masks, projects, queue
from backend.store.backup_source import open_source
from backend.store.blobs import BlobFolder
from backend.store.moment import blob_columns
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Base, Event
from mpamatch.errors import Conflict, Unavailable
from tests.backend.actions.backup.kept import backed_up, content
from tests.builders import Installation, add_images

pytestmark = pytest.mark.database


@pytest.mark.parametrize("name", ["backups", "one.tar"])
def test_what_comes_back_is_what_was_there(
    made: Installation, empty_database_url: str, tmp_path: Path, name: str
) -> None:
    report = backed_up(made, tmp_path / name)
    state = tmp_path / "second"
    source = open_source(tmp_path / name)
    restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, source)
    source.close()
    again = Database(empty_database_url)
    assert content(again) == content(made.database)
    blobs = BlobFolder(state / "blobs")
    with again.transaction() as session:
        project = projects.get(session, made.project_id)
        assert [m.tile_id for m in masks.current(session, project.id)] == [t.id for t in made.tiles()]
        assert [blobs.get(m.blob) for m in masks.current(session, project.id)]
        assert KeyRing.at(state / "key").open(project.ls_token) == "a token"  # type: ignore[arg-type]
        order = [e.tile_id for e in queue.head(session, project, 50)]
        assert events.verify_chain(session, project.id, known_head=report.manifest.projects[0].chain_head) is None
    with made.database.transaction() as session:
        assert order == [e.tile_id for e in queue.head(session, projects.get(session, made.project_id), 50)]
    assert (state / "key").stat().st_mode & 0o777 == 0o600
    assert sum(1 for p in (state / "blobs").rglob("*") if p.is_file()) == report.manifest.blobs
    # A new row gets an id that no row ever had.
    made_again = Installation(again, blobs, KeyRing.at(state / "key"), made.folder, made.project_id)
    assert add_images(made_again, train=1, audit=0, masked=False, first=50).images == 1
    again.close()


def test_a_tar_is_for_its_owner_alone_and_takes_no_other_files_place(made: Installation, tmp_path: Path) -> None:
    backed_up(made, tmp_path / "one.tar")
    assert (tmp_path / "one.tar").stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.glob(".making*")) == []
    with pytest.raises(Conflict, match="exists already"):
        backed_up(made, tmp_path / "one.tar")


def test_a_second_backup_copies_only_what_is_new(made: Installation, tmp_path: Path) -> None:
    first = backed_up(made, tmp_path / "backups")
    assert first.copied == first.manifest.blobs > 0
    shutil.move(first.path, first.path.with_name("20000101T000000Z"))
    add_images(made, train=1, audit=0, masked=False, first=60)
    second = backed_up(made, tmp_path / "backups")
    assert second.copied == 1
    assert second.manifest.blobs == first.manifest.blobs + 1
    source = open_source(tmp_path / "backups")
    assert source.manifest == second.manifest


def test_every_column_that_names_blobs_is_known_by_its_name() -> None:
    named = {f"{t}.{c}" for t, c in blob_columns(Base.metadata)}
    assert {"tile.png_blob", "model.blob", "mask.blob", "prediction.class_blob", "annotation.result_blob"} <= named
    assert {"prediction.confidence_blob", "prediction.embeddings_blob", "run.snapshot_blob"} <= named


def test_a_backup_under_load_is_one_moment(made: Installation, empty_database_url: str, tmp_path: Path) -> None:
    stop = threading.Event()

    def more() -> None:
        for number in range(100, 160):
            if stop.is_set():
                return
            add_images(made, train=1, audit=0, masked=True, first=number)

    writer = threading.Thread(target=more)
    writer.start()
    try:
        report = backed_up(made, tmp_path / "backups")
    finally:
        stop.set()
        writer.join()
    state = tmp_path / "second"
    restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, open_source(tmp_path / "backups"))
    again = Database(empty_database_url)
    with again.transaction() as session:
        for name, rows in report.manifest.tables.items():
            extra = 1 if name == "event" else 0
            assert session.scalar(select(func.count()).select_from(Base.metadata.tables[name])) == rows.rows + extra
        for row in masks.current(session, made.project_id):
            BlobFolder(state / "blobs").get(row.blob)
            BlobFolder(state / "blobs").get(row.png_blob)
    again.close()


def test_a_lost_blob_is_named_and_the_rest_can_be_backed_up(
    made: Installation, empty_database_url: str, tmp_path: Path
) -> None:
    lost = made.tiles()[0].png_blob
    made.blobs.path(lost).write_bytes(b"flipped")
    with pytest.raises(Unavailable, match=f"{lost[:12]}.*--skip-damaged"):
        backed_up(made, tmp_path / "backups")
    assert list((tmp_path / "backups").glob("[0-9]*")) == []
    report = backed_up(made, tmp_path / "backups", skip_damaged=True)
    assert report.manifest.missing == (lost,)
    state = tmp_path / "second"
    restored = restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, open_source(tmp_path / "backups"))
    assert restored.manifest.missing == (lost,)


def test_blobs_that_are_away_stop_a_backup_and_are_not_named_as_lost(
    made: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of a bucket's blobs would be missing in a backup that says that it is complete."""
    lost = made.tiles()[0].png_blob
    made.blobs.path(lost).unlink()
    read = made.blobs.get
    asked: list[str] = []

    def get(digest: str) -> bytes:
        asked.append(digest)
        if len(asked) > 3:
            raise Unavailable("bucket", "does not answer", "check that it runs")
        return read(digest)

    monkeypatch.setattr(made.blobs, "get", get)
    with pytest.raises(Unavailable, match="does not answer; check that it runs"):
        backed_up(made, tmp_path / "backups", skip_damaged=True)
    assert list((tmp_path / "backups").glob("[0-9]*")) == []


def test_a_backup_seals_all_that_happened_however_much(
    made: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SEAL_BATCH", 2)
    backed_up(made, tmp_path / "backups")
    with made.database.transaction() as session:
        assert session.scalar(select(func.count()).where(Event.seal.is_(None))) == 0


def test_our_own_label_studio_comes_along_as_it_is_while_it_writes(
    made: Installation, empty_database_url: str, tmp_path: Path
) -> None:
    studio = made.folder / "label-studio"
    (studio / "media" / "upload").mkdir(parents=True)
    (studio / "media" / "upload" / "a.png").write_bytes(b"a picture")
    (studio / "link").symlink_to("/etc/passwd")
    running = sqlite3.connect(studio / "label_studio.sqlite3")
    running.execute("PRAGMA journal_mode = WAL")
    running.execute("CREATE TABLE task (id integer)")
    running.execute("INSERT INTO task VALUES (1)")
    running.commit()
    running.execute("INSERT INTO task VALUES (2)")  # not committed yet
    report = backed_up(made, tmp_path / "one.tar", label_studio="included")
    running.close()
    names = {n for n in report.manifest.parts if n.startswith("label-studio/")}
    assert names == {"label-studio/label_studio.sqlite3", "label-studio/media/upload/a.png"}
    state = tmp_path / "second"
    source = open_source(tmp_path / "one.tar")
    restored = restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, source)
    source.close()
    assert restored.label_studio
    assert (state / "label-studio" / "media" / "upload" / "a.png").read_bytes() == b"a picture"
    with closing(sqlite3.connect(state / "label-studio" / "label_studio.sqlite3")) as copy:
        assert copy.execute("SELECT id FROM task").fetchall() == [(1,)]
