"""What a backup leaves out on purpose, or a restore does, is missing cleanly: keys, our Label Studio, sessions."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select, text

from backend.actions.restore_backup import restore_backup
from backend.clock import utc_now
from backend.servers import EmbeddedPostgres
from backend.store import browsers, masks, projects
from backend.store.backup_source import open_source
from backend.store.blobs import BlobFolder
from backend.store.load_rows import leave_label_studio
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Annotation, Task, Tile
from migrations.run import upgrade
from tests.backend.actions.backup.kept import backed_up
from tests.builders import Installation, add_images

pytestmark = pytest.mark.database


def test_without_the_key_nobody_is_connected_and_nothing_else_is_lost(
    made: Installation, empty_database_url: str, tmp_path: Path
) -> None:
    report = backed_up(made, tmp_path / "backups", secrets=False)
    assert not [name for name in report.manifest.parts if name.startswith("state/")]
    state = tmp_path / "second"
    restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, open_source(tmp_path / "backups"))
    again = Database(empty_database_url)
    with again.transaction() as session:
        assert projects.get(session, made.project_id).ls_token is None
        assert len(masks.current(session, made.project_id)) == 6
    again.close()
    assert not (state / "key").exists()


def test_without_our_label_studio_its_tasks_are_gone_and_entries_wait_again(
    made: Installation, empty_database_url: str, tmp_path: Path
) -> None:
    backed_up(made, tmp_path / "backups", label_studio="left out")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
    state = tmp_path / "second"
    restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, open_source(tmp_path / "backups"))
    again = Database(empty_database_url)
    with again.transaction() as session:
        project = projects.get(session, made.project_id)
        assert (project.ls_project_id, project.ls_url) == (None, None)
        task = session.scalars(select(Task)).one()
        assert task.state == "gone"
        assert task.ls_task_id < 0
    again.close()


def test_without_our_label_studio_a_project_of_another_server_keeps_its_tie(
    made: Installation, empty_database_url: str, tmp_path: Path
) -> None:
    with made.database.transaction() as session:
        ours = projects.get(session, made.project_id)
        ours.ls_controls, ours.ls_problem = {"seg": "regions"}, "a label is renamed"  # adopted, and from our own
        classes = projects.classes_of(ours)
        theirs = projects.create(session, title="Adopted", classes=classes, policy=projects.policy_of(ours), seed=0)
        theirs.ls_url, theirs.ls_project_id, theirs.ls_elsewhere = "http://studio.example.org", 3, True
        theirs.ls_controls, theirs.ls_token = {"seg": "tissue"}, made.keys.seal("their token")
        session.flush()
    there = Installation(made.database, made.blobs, made.keys, made.folder, theirs.id)
    add_images(there, train=1, audit=0, masked=False, first=90)
    with made.database.transaction() as session:
        tile = session.scalars(select(Tile).where(Tile.project_id == theirs.id)).one()
        session.add(Task(project_id=theirs.id, tile_id=tile.id, ls_task_id=71, origin="uploaded"))
        for project_id, number in ((ours.id, 70), (theirs.id, 71)):
            session.add(
                Annotation(
                    project_id=project_id,
                    tile_id=tile.id,
                    ls_annotation_id=number + 100,
                    ls_task_id=number,
                    result_blob=made.blobs.put(b"[]"),
                    updated_at=utc_now(),
                    state="present",
                )
            )
    backed_up(made, tmp_path / "backups", label_studio="left out")
    state = tmp_path / "second"
    restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, open_source(tmp_path / "backups"))
    again = Database(empty_database_url)
    with again.transaction() as session:
        left, kept = projects.get(session, ours.id), projects.get(session, theirs.id)
        assert (left.ls_url, left.ls_controls, left.ls_problem) == (None, None, None)
        assert (kept.ls_url, kept.ls_project_id, kept.ls_controls) == (
            "http://studio.example.org",
            3,
            {"seg": "tissue"},
        )
        assert KeyRing.at(state / "key").open(kept.ls_token) == "their token"  # type: ignore[arg-type]
        task = session.scalars(select(Task).where(Task.project_id == kept.id)).one()
        assert (task.ls_task_id, task.state) == (71, "live")
        numbers = {a.project_id: (a.ls_annotation_id, a.ls_task_id) for a in session.scalars(select(Annotation))}
        assert numbers[kept.id] == (171, 71)
        assert max(numbers[left.id]) < 0
    again.close()


def test_a_backup_from_before_projects_were_adopted_can_leave_our_label_studio_behind(
    postgres: EmbeddedPostgres,
) -> None:
    url = postgres.create_database("before_adoption")
    upgrade(url, "0005")
    old = Database(url)
    with old.transaction() as session:
        session.execute(
            text("INSERT INTO project (key, title, classes, policy, ls_url) VALUES ('k', 'K', '[]', '{}', 'http://a')")
        )
        leave_label_studio(session.connection())
        assert session.scalar(text("SELECT ls_url FROM project")) is None
    old.close()
    postgres.drop_database("before_adoption")


def test_nobody_is_signed_in_after_a_restore(made: Installation, empty_database_url: str, tmp_path: Path) -> None:
    """One who signed out, or whose token was revoked, after the backup is in its rows as signed in."""
    with made.database.transaction() as session:
        browsers.begin(session, "a nonce", token_id=None, now=utc_now())
    backed_up(made, tmp_path / "backups")
    state = tmp_path / "second"
    restore_backup(empty_database_url, BlobFolder(state / "blobs"), state, open_source(tmp_path / "backups"))
    again = Database(empty_database_url)
    with made.database.transaction() as session:
        assert browsers.is_open(session, "a nonce", now=utc_now())
    with again.transaction() as session:
        assert not browsers.is_open(session, "a nonce", now=utc_now())
    again.close()
