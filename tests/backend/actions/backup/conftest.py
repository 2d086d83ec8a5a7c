"""An installation worth a backup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from backend.actions.rank_queue import rank_queue
from backend.store import events, projects
from backend.store.tables import Task, Tile
from tests.builders import Installation, installation, predict_all


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Iterator[Installation]:
    """A project with masks, predictions, a ranked queue, sealed credentials and a log."""
    folder = tmp_path / "first"
    folder.mkdir()
    made = installation(database_url, folder, train=4, audit=2, masked=True)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        champion = projects.champion(session, project)
        project.ls_token = made.keys.seal("a token")
        project.ls_project_id, project.ls_url = 7, "http://127.0.0.1:1"
        tile = session.scalars(select(Tile).order_by(Tile.id)).first()
        assert tile is not None
        session.add(Task(project_id=project.id, tile_id=tile.id, ls_task_id=70, origin="head"))
        events.record(session, project_id=None, actor="test", what="token created", subject="token:1")
    predict_all(made, champion)
    assert rank_queue(made.database, made.project_id)
    yield made
    made.database.close()
