from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from backend.api.app import create_app
from backend.settings import Settings
from backend.store import projects
from backend.store.tables import Inbox
from tests.bad_inputs.bodies import BODIES, LS_PROJECT, BadBody, created
from tests.builders import Installation, installation

pytestmark = pytest.mark.database
SECRET = "a-secret"
MOST_KEPT_BYTES = 20_000


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """A connected project without a picture."""
    made = installation(database_url, tmp_path / "state", train=0, audit=0)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.ls_project_id = LS_PROJECT
        project.ls_webhook_secret = made.keys.seal(SECRET)
    return made


@pytest.fixture
def client(made: Installation, database_url: str, redis_url: str) -> Iterator[TestClient]:
    settings = Settings(state=made.folder, database_url=database_url, broker_url=redis_url)
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("case", BODIES, ids=[c.name for c in BODIES])
def test_each_is_refused_in_one_line_or_kept_small_and_the_next_delivery_is_kept(
    client: TestClient, made: Installation, case: BadBody
) -> None:
    headers = {"X-Mpamatch-Secret": SECRET, "content-type": "application/json"}
    answer = client.post("/ml/test-glands/webhook", content=case.make(), headers=headers)
    assert answer.status_code == case.status, answer.text
    if case.line is not None:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == case.line
        assert "\n" not in answer.text
    after = client.post("/ml/test-glands/webhook", json=created(task={"id": 4}, annotation=None), headers=headers)
    assert after.json() == {"status": "kept"}
    with made.database.transaction() as session:
        rows = session.scalars(select(Inbox).order_by(Inbox.id)).all()
        largest = session.scalar(text("SELECT max(octet_length(payload::text) + octet_length(dedupe_key)) FROM inbox"))
    assert len(rows) == 1 + case.kept
    assert largest < MOST_KEPT_BYTES
