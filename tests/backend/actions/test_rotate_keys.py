"""A new key: credentials still open, pictures still load, and a leaked key is worth nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from backend.actions.rotate_keys import rotate_keys
from backend.actions.show_tile import link
from backend.api.app import create_app
from backend.settings import Settings
from backend.store.secrets import KeyRing
from backend.store.tables import Event, Project, Task
from tests.builders import Installation, installation

pytestmark = pytest.mark.database
BASE = "http://testserver"


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    made = installation(database_url, tmp_path / "state", train=1, audit=0)
    with made.database.transaction() as session:
        project = session.get_one(Project, made.project_id)
        project.ls_token, project.ls_webhook_secret = made.keys.seal("a-token"), made.keys.seal("a-secret")
        tile = made.tiles()[0]
        session.add(Task(project_id=made.project_id, tile_id=tile.id, ls_task_id=7, origin="head"))
    return made


def test_links_of_the_key_before_load_until_that_key_is_dropped(
    made: Installation, database_url: str, redis_url: str
) -> None:
    now = datetime.now(UTC)
    settings = Settings(state=made.folder, database_url=database_url, broker_url=redis_url)
    with TestClient(create_app(settings)) as client:
        old = link(made.keys, BASE, made.tiles()[0].id, now + timedelta(hours=1))
        assert client.get(old).status_code == 200
        assert rotate_keys(made.database, made.keys, drop_old=False, now=now, actor="operator") == 1
        new = link(made.keys, BASE, made.tiles()[0].id, now + timedelta(hours=1))
        assert client.get(old).status_code == client.get(new).status_code == 200
        rotate_keys(made.database, made.keys, drop_old=True, now=now, actor="operator")
        assert client.get(old).status_code == client.get(new).status_code == 403
    with made.database.transaction() as session:
        assert session.scalars(select(Task)).one().url_expires_at == now  # made anew at the next look


def test_credentials_are_sealed_with_the_new_key_alone(made: Installation) -> None:
    old = KeyRing((made.folder / "key").read_bytes())
    rotate_keys(made.database, made.keys, drop_old=True, now=datetime.now(UTC), actor="operator")
    alone = KeyRing((made.folder / "key").read_bytes())
    with made.database.transaction() as session:
        project = session.get_one(Project, made.project_id)
        assert project.ls_token is not None
        assert project.ls_webhook_secret is not None
        assert alone.open(project.ls_token) == "a-token"
        assert alone.open(project.ls_webhook_secret) == "a-secret"
        assert project.ls_auth_password is None
        assert session.scalars(select(Event.what)).all()[-1] == "keys rotated"
    assert old.key_id != alone.key_id


def test_a_rotation_that_was_killed_half_way_can_be_done_again(made: Installation) -> None:
    made.keys.rotate()  # as far as a kill let it come: the file is new, nothing is resealed
    rotate_keys(made.database, KeyRing.at(made.folder / "key"), drop_old=True, now=datetime.now(UTC), actor="operator")
    with made.database.transaction() as session:
        sealed = session.get_one(Project, made.project_id).ls_token
        assert sealed is not None
        assert KeyRing.at(made.folder / "key").open(sealed) == "a-token"
