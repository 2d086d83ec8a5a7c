"""Nothing is fetched from where a task, a webhook or a redirect points, but below the connected Label Studio.

Against CVE-2022-36551, CVE-2023-47116, CVE-2025-25297 and CVE-2022-31188 (requests forged through an import),
CVE-2025-25295 (a path in the image field), LS#9801 (a user's webhook reaches the inside). The inside is a real server.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from backend.actions.take_in_uploads import take_in_uploads
from backend.labelstudio.client import LabelStudioClient
from backend.settings import Settings
from backend.site import create_site
from backend.store.sessions import Database
from backend.store.tables import Image, Project, Task
from mpamatch.files.images import encode_png
from tests.builders import Installation, installation, picture
from tests.security.canary import Canary, canary

pytestmark = pytest.mark.database
NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(database_url, tmp_path / "state", train=1, audit=0)


def take_in(made: Installation, url: str, images: list[Any]) -> list[str]:
    tasks = [{"id": number, "data": {"image": image}} for number, image in enumerate(images, start=1)]
    with LabelStudioClient(url, "a-token", timeout_s=5) as client:
        return take_in_uploads(made.database, made.blobs, client, made.project_id, tasks, now=NOW)


def hostile(inside: Canary, connected: Canary, secret: Path) -> list[Any]:
    """Addresses that a person can write into a task; each of them would be read by a careless server."""
    port = inside.url.rsplit(":", 1)[1]
    host = connected.url.removeprefix("http://")
    return [
        f"{inside.url}/latest/meta-data",
        f"//127.0.0.1:{port}/x.png",
        f"\\\\127.0.0.1:{port}\\x.png",
        f"http://localhost:{port}/x.png",
        f"http://[::ffff:127.0.0.1]:{port}/x.png",
        f"http://2130706433:{port}/x.png",
        f"http://0x7f000001:{port}/x.png",
        f"http://{host}@127.0.0.1:{port}/x.png",
        f"http://{host}#@127.0.0.1:{port}/x.png",
        f"http://{host}\\@127.0.0.1:{port}/x.png",
        f"{connected.url}.evil.example:{port}/x.png",
        "http://169.254.169.254/latest/meta-data",
        "gopher://127.0.0.1/x",
        "ftp://127.0.0.1/x",
        f"file://{secret}",
        str(secret),
        f"/vsicurl/{inside.url}/x.tif",
        "s3://bucket/x.png",
        "data:image/png;base64," + base64.b64encode(encode_png(picture(1))).decode(),
        "/data/local-files/?d=../../../../etc/passwd",
        f"{connected.url}/data/../../admin",
        f"{connected.url}/data/%2e%2e/admin",
        "/data/\r\nHost: evil",
        "http://[",
        "",
        None,
        7,
        ["x"],
        {"url": inside.url},
    ]


def test_an_upload_reaches_nothing_but_the_connected_label_studio(made: Installation, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(encode_png(picture(2)))
    with canary() as inside, canary() as connected:
        images = hostile(inside, connected, secret)
        problems = take_in(made, connected.url, images)
        assert inside.asked == []
        assert [path for path in connected.asked if "admin" in path] == []
    assert len(problems) == len(images)  # each is said, in one line, and none ended the batch
    assert all("\n" not in problem and "\r" not in problem for problem in problems)
    with made.database.transaction() as session:
        assert len(session.scalars(select(Image)).all()) == 1
        assert session.scalars(select(Task)).all() == []


def test_a_redirect_to_another_host_is_not_followed(made: Installation) -> None:
    with canary() as inside, canary(send_on_to=f"{inside.url}/latest") as connected:
        (problem,) = take_in(made, connected.url, ["/data/upload/1/a.png"])
        assert connected.asked == ["/data/upload/1/a.png"]
        assert inside.asked == []
    assert "sends on to another address" in problem


def test_an_honest_upload_is_taken_in(made: Installation) -> None:
    """The guard lets through what it should: without this the tests above would pass on a broken client."""
    with canary(answer=encode_png(picture(3))) as connected:
        assert take_in(made, connected.url, ["/data/upload/1/a.png"]) == []
    with made.database.transaction() as session:
        assert session.scalars(select(Task.ls_task_id)).all() == [1]


def test_a_webhook_or_a_predict_request_makes_the_api_ask_nobody(
    made: Installation, database_url: str, redis_url: str
) -> None:
    """What they carry is a hint about ids; the sender, its host and its addresses are of no account."""
    settings = Settings(state=made.folder, database_url=database_url, broker_url=redis_url, predict_wait_s=0)
    with canary() as inside, TestClient(create_site(settings), base_url="http://127.0.0.1:9090") as client:
        _connect(made.database, made, inside)
        headers = {"Authorization": "Basic " + base64.b64encode(b"label-studio:pw").decode()}
        task = {"id": 5, "data": {"image": f"{inside.url}/x.png", "tile_id": 1, "url": f"{inside.url}/y"}}
        body = {
            "action": "ANNOTATION_CREATED",
            "project": {"id": 7, "hostname": inside.url},
            "task": task,
            "annotation": {"id": 1, "task": 5, "updated_at": "2026-03-01T00:00:00Z", "result": []},
            "hostname": inside.url,
            "callback": inside.url,
        }
        assert client.post("/ml/test-glands/webhook", json=body, headers=headers).status_code == 200
        predict = {"tasks": [task], "label_config": f'<View><Image value="{inside.url}"/></View>', "params": {}}
        assert (
            client.post("/ml/test-glands/predict", json=predict, headers=headers).json()["results"][0]["result"] == []
        )
        setup = {
            "project": "7.1",
            "hostname": inside.url,
            "access_token": "stolen",
            "schema": f"<View>{inside.url}</View>",
        }
        assert client.post("/ml/test-glands/setup", json=setup, headers=headers).status_code == 200
        assert inside.asked == []
    with made.database.transaction() as session:
        project = session.get_one(Project, made.project_id)
        assert project.ls_url == inside.url  # what connected it, not what the request says of itself
        assert project.ls_token is None


def _connect(database: Database, made: Installation, inside: Canary) -> None:
    with database.transaction() as session:
        project = session.get_one(Project, made.project_id)
        project.ls_project_id, project.ls_url = 7, inside.url
        project.ls_auth_password = made.keys.seal("pw")
