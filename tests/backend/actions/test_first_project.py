from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from backend.actions import first_project
from backend.settings import Settings
from backend.store import projects
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.errors import NotFound
from tests.builders import installation

pytestmark = pytest.mark.database


def test_one_project_that_is_gone_in_label_studio_keeps_no_other_from_being_connected(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = installation(database_url, tmp_path, train=0, audit=0)
    with made.database.transaction() as session:
        classes = ClassSet.from_names(["background", "gland"])
        other = projects.create(session, title="Another", classes=classes, policy=Policy(), seed=0).id

    def connect(database: Any, keys: Any, client: Any, project_id: int, **more: Any) -> int:
        if project_id == made.project_id:
            raise NotFound("Label Studio project 7", "is gone", "restore it")
        return 8

    monkeypatch.setattr(first_project, "connect_project", connect)
    settings = Settings(
        state=tmp_path, label_studio_url="http://127.0.0.1:1", label_studio_token=SecretStr("a" * 40), broker_url="x"
    )
    assert first_project.connect_all(settings, made.database) == {other: 8}
    assert "is gone" in caplog.text
