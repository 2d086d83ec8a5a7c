import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import func, select

from backend.actions.rank_queue import rank_queue
from backend.actions.show_tile import link
from backend.api.app import create_app
from backend.settings import Settings
from backend.store import inbox, projects
from backend.store.tables import Inbox, Task
from backend.wakeups import Wakeups
from tests.builders import Installation, add_model, installation, predict_all

pytestmark = pytest.mark.database
PASSWORD, SECRET, LS_PROJECT = "a-password", "a-secret", 56


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """A connected, ranked project whose first train tile is task 1592 and whose first audit tile is task 1593."""
    made = installation(database_url, tmp_path / "state")
    model = add_model(made, "m1")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.champion(session, project).state = "retired"
        session.flush()
        session.get_one(type(model), model.id).state = "champion"
        project.champion_id = model.id
        project.ls_model_version = "m1"
        project.ls_project_id = LS_PROJECT
        project.ls_auth_password = made.keys.seal(PASSWORD)
        project.ls_webhook_secret = made.keys.seal(SECRET)
    predict_all(made, model)
    rank_queue(made.database, made.project_id)
    with made.database.transaction() as session:
        for ls_task_id, split in ((1592, "train"), (1593, "audit")):
            tile = made.tiles(split)[0]
            session.add(Task(project_id=made.project_id, tile_id=tile.id, ls_task_id=ls_task_id, origin="head"))
    return made


@pytest.fixture
def client(made: Installation, database_url: str, redis_url: str) -> Iterator[TestClient]:
    settings = Settings(state=made.folder, database_url=database_url, broker_url=redis_url, predict_wait_s=0.2)
    with TestClient(create_app(settings)) as client:
        yield client


def _basic(password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"label-studio:{password}".encode()).decode()}


def _webhook(client: TestClient, body: dict[str, Any], secret: str = SECRET) -> Any:
    return client.post("/ml/test-glands/webhook", json=body, headers={"X-Mpamatch-Secret": secret})


def _kept(made: Installation) -> int:
    with made.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(Inbox)) or 0


def _created(updated_at: str = "2026-03-01T10:00:00Z") -> dict[str, Any]:
    return {
        "action": "ANNOTATION_CREATED",
        "project": {"id": LS_PROJECT, "token": "not-to-be-kept"},
        "task": {"id": 1592},
        "annotation": {"id": 9, "task": 1592, "updated_at": updated_at, "result": []},
    }


@pytest.mark.parametrize(
    "headers", [{}, _basic("wrong"), {"Authorization": "Basic %%%"}, {"Authorization": "Bearer x"}]
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "health"),
        ("POST", "setup"),
        ("POST", "predict"),
        ("GET", "versions"),
        ("POST", "webhook"),
        ("POST", "train"),
    ],
)
def test_nobody_speaks_for_a_project_without_its_password(
    client: TestClient, headers: dict[str, str], method: str, path: str
) -> None:
    response = client.request(
        method, f"/ml/test-glands/{path}", headers=headers, json={"tasks": []} if method == "POST" else None
    )
    assert response.status_code == 401


def test_setup_and_predict_name_the_same_version(client: TestClient) -> None:
    setup = client.post("/ml/test-glands/setup", json={}, headers=_basic()).json()
    body = client.post("/ml/test-glands/predict", json={"tasks": [{"id": 1592}]}, headers=_basic()).json()
    assert setup == {"model_version": "m1"}
    assert [r["model_version"] for r in body["results"]] == ["m1"]


def test_predict_answers_one_result_per_task_in_their_order_and_audit_tiles_blind(client: TestClient) -> None:
    body = {"tasks": [{"id": 1593}, {"id": 4}, {"id": 1592}, {"id": "x"}, {"id": 10**30}, {"id": True}, {}]}
    results = client.post("/ml/test-glands/predict", json=body, headers=_basic()).json()["results"]
    assert [len(r["result"]) > 0 for r in results] == [False, False, True, False, False, False, False]
    kinds = [item["type"] for item in results[2]["result"]]
    assert kinds.count("brushlabels") == 1
    assert "rectanglelabels" in kinds
    assert all(item.get("readonly") for item in results[2]["result"] if item["type"] == "rectanglelabels")
    assert results[0]["score"] != results[2]["score"]


def test_a_task_cannot_name_another_tile_than_its_own(client: TestClient, made: Installation) -> None:
    other = made.tiles("train")[1].id
    body = {"tasks": [{"id": 77, "data": {"tile_id": other, "image": "file:///etc/passwd"}}]}
    assert client.post("/ml/test-glands/predict", json=body, headers=_basic()).json()["results"][0]["result"] == []


def test_a_webhook_is_on_the_disk_before_it_is_acknowledged_and_counts_once(
    client: TestClient, made: Installation
) -> None:
    assert _webhook(client, _created()).json() == {"status": "kept"}
    assert _webhook(client, _created()).json() == {"status": "known"}
    assert _webhook(client, _created("2026-03-01T11:00:00Z")).json() == {"status": "kept"}
    assert _kept(made) == 2
    with made.database.transaction() as session:
        stored = json.dumps([row.payload for row in session.scalars(select(Inbox))])
    assert "not-to-be-kept" not in stored


def test_one_wake_up_takes_in_all_that_waits(
    client: TestClient, made: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[int] = []
    monkeypatch.setattr(Wakeups, "sync", lambda self, project_id, full=False: sent.append(project_id))
    for minute in range(5):
        _webhook(client, _created(f"2026-03-01T10:{minute:02}:00Z"))
    assert sent == [made.project_id]
    with made.database.transaction() as session:
        inbox.applied(session, list(session.scalars(select(Inbox.id))), now=datetime.now(UTC))
    _webhook(client, _created("2026-03-01T11:00:00Z"))
    assert sent == [made.project_id] * 2


def test_a_forged_webhook_leaves_nothing(client: TestClient, made: Installation) -> None:
    assert _webhook(client, _created(), secret="guess").status_code == 401
    assert _webhook(client, {**_created(), "project": {"id": 1}}).status_code == 422
    assert _kept(made) == 0


def test_a_webhook_is_kept_while_the_broker_is_away(made: Installation, database_url: str, tmp_path: Path) -> None:
    settings = Settings(
        state=made.folder, database_url=database_url, broker_url=f"redis+socket://{tmp_path}/nobody.sock"
    )
    with TestClient(create_app(settings)) as client:
        assert _webhook(client, _created()).status_code == 200
    assert _kept(made) == 1


def test_start_training_is_a_request_on_the_project(client: TestClient, made: Installation) -> None:
    body = {"action": "START_TRAINING", "project": {"id": LS_PROJECT}}
    assert client.post("/ml/test-glands/webhook", json=body, headers=_basic()).status_code == 200
    assert made.project().requested_run == "label-studio"


def test_what_our_own_imports_cause_is_not_kept(client: TestClient, made: Installation) -> None:
    body = {"action": "TASKS_CREATED", "project": {"id": LS_PROJECT}, "tasks": [{"id": 1, "data": {"tile_id": 3}}]}
    assert _webhook(client, body).json() == {"status": "nothing to do"}
    assert _webhook(client, {**body, "tasks": [{"id": 1, "data": {"image": "/data/upload/1/a.png"}}]}).json() == {
        "status": "kept"
    }
    assert _webhook(client, {"action": "PROJECT_UPDATED", "project": {"id": LS_PROJECT}}).json() == {
        "status": "nothing to do"
    }


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'"text"'])
def test_what_is_no_json_object_is_refused_in_one_line(client: TestClient, content: bytes) -> None:
    response = client.post("/ml/test-glands/webhook", content=content, headers=_basic())
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert set(response.json()) >= {"title", "status", "detail"}


def test_a_body_over_the_limit_is_refused_by_length_and_by_count(client: TestClient) -> None:
    large = b"x" * (17 * 1024 * 1024)
    assert client.post("/ml/test-glands/webhook", content=large, headers=_basic()).status_code == 413
    chunks = (large[i : i + 65536] for i in range(0, len(large), 65536))
    assert client.post("/ml/test-glands/webhook", content=chunks, headers=_basic()).status_code == 413


def test_every_recorded_webhook_is_received_and_one_without_secret_refused(
    client: TestClient, made: Installation, shared_dir: Path
) -> None:
    seen = 0
    for file in sorted((shared_dir / "fixtures" / "label-studio").glob("webhook-*.json")):
        recorded = json.loads(file.read_text())["data"]
        for delivery in recorded if isinstance(recorded, list) else []:
            body = delivery.get("body")
            if not isinstance(body, dict) or "action" not in body:
                continue
            body = {**body, "project": {**body.get("project", {}), "id": LS_PROJECT}}
            assert _webhook(client, body).status_code == 200, file.name
            assert client.post("/ml/test-glands/webhook", json=body).status_code == 401, file.name
            seen += 1
    assert seen >= 8


def test_recorded_predict_requests_are_answered_one_for_one(client: TestClient, shared_dir: Path) -> None:
    for name in ("ml-predict-next", "ml-predict-with-history", "ml-predict-batch", "ml-predict-interactive"):
        recorded = json.loads((shared_dir / "fixtures" / "label-studio" / f"{name}.json").read_text())["data"]
        bodies = [d["body"] for d in _deliveries(recorded) if isinstance(d.get("body"), dict) and "tasks" in d["body"]]
        assert bodies, name
        for body in bodies:
            answer = client.post("/ml/test-glands/predict", json=body, headers=_basic()).json()
            assert len(answer["results"]) == len(body["tasks"]), name


def test_the_recorded_connecting_is_answered_with_the_version_that_is_shown(
    client: TestClient, shared_dir: Path
) -> None:
    folder = shared_dir / "fixtures" / "label-studio"
    calls = _deliveries(json.loads((folder / "ml-connect-requests.json").read_text())["data"])
    calls += json.loads((folder / "ml-versions.json").read_text())["data"]["ml_backend_received"]
    told = {}
    for call in calls:
        path = f"/ml/test-glands{call['path']}"
        answer = client.request(call["method"], path, json=call["body"], headers=_basic())
        assert answer.status_code == 200, call["path"]
        told[call["path"]] = answer.json()
        strange = client.request(call["method"], path, json=call["body"], headers=call["headers"])
        assert strange.status_code == 401, "the recorded password is not ours"
    assert told["/setup"] == {"model_version": "m1"}
    assert "m1" in told["/versions"]["versions"]


def _deliveries(recorded: Any) -> list[dict[str, Any]]:
    if isinstance(recorded, dict):
        return [d for value in recorded.values() for d in _deliveries(value)] if "body" not in recorded else [recorded]
    return [d for value in recorded for d in _deliveries(value)] if isinstance(recorded, list) else []


def test_a_picture_link_opens_one_tile_until_its_time(client: TestClient, made: Installation) -> None:
    tile, other = made.tiles()[:2]
    now = datetime.now(UTC)
    url = link(made.keys, "http://testserver", tile.id, now + timedelta(hours=1))
    response = client.get(url)
    assert response.status_code == 200
    assert response.content == made.blobs.get(tile.png_blob)
    assert response.headers["access-control-allow-origin"] == "*"
    assert client.get(url.replace(f"/tiles/{tile.id}.", f"/tiles/{other.id}.")).status_code == 403
    assert client.get(link(made.keys, "http://testserver", tile.id, now - timedelta(seconds=1))).status_code == 403
    assert client.get(f"/tiles/{tile.id}.png").status_code == 422


def test_an_unknown_project_is_not_found_and_health_needs_no_password(client: TestClient) -> None:
    assert client.post("/ml/nobody/setup", json={}, headers=_basic()).status_code == 404
    assert client.get("/health").json() == {"status": "UP"}
    assert client.get("/health/ready").status_code == 200
