"""The client and what we write, against a real Label Studio. Slow: the server takes half a minute to come up."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.config import check_same_classes, labelling_config, read_config
from backend.labelstudio.payloads import parse_webhook
from backend.labelstudio.results import MaskReading, ReviewBox, class_map_to_result, result_to_mask
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput, Conflict, NotFound
from tests import label_studio_person as person

pytestmark = [pytest.mark.labelstudio, pytest.mark.timeout(600)]

CLASSES = ClassSet.from_names(["background", 'Tu<mour> & "x"', "Ström"])
WIDTH, HEIGHT = 96, 64


def class_map() -> np.ndarray:
    yy, xx = np.mgrid[:HEIGHT, :WIDTH]
    found = ((yy - 30) ** 2 + (xx - 40) ** 2 < 18**2).astype(np.uint8)
    found[50:60, 5:25] = 2
    return found


def result(scope: str | None = "only the boxes", label_type: str = "brush") -> list[dict[str, Any]]:
    box = ReviewBox(Box(30, 20, 24, 20), 0.41, "confidence 0.41 below 0.95 over 312 px")
    return class_map_to_result(class_map(), CLASSES, review_boxes=[box], scope=scope, label_type=label_type)


@dataclass
class Listener:
    """What stands in for our own service: answers the protocol and remembers what came."""

    url: str
    received: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)

    def bodies(self, path: str) -> list[Any]:
        return [body for at, _, body in self.received if at == path]


@pytest.fixture(scope="module")
def listener() -> Iterator[Listener]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            heard.received.append((self.path, dict(self.headers), json.loads(raw) if raw else None))
            answer = json.dumps({"model_version": "m1", "results": []}).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    heard = Listener(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield heard
    server.shutdown()


@pytest.fixture(scope="module")
def client(real_label_studio) -> Iterator[LabelStudioClient]:
    with LabelStudioClient(real_label_studio.url, real_label_studio.token) as made:
        yield made


@pytest.fixture(scope="module")
def picture(real_label_studio) -> str:
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 220, np.uint8)).save(real_label_studio.pictures / "a.png")
    return "/data/local-files/?d=tiles/a.png"


def make_project(client: LabelStudioClient, title: str, label_type: str = "brush") -> int:
    xml = labelling_config(CLASSES, label_type)
    made = client.create_project(title, xml, sampling="Uncertainty sampling", maximum_annotations=1)
    return int(made["id"])


def fill(client: LabelStudioClient, project_id: int, picture: str, count: int, shown: Any = None) -> list[int]:
    """Tasks whose score order is not their id order: the order of 7 k modulo ``count``."""
    tasks = [
        {
            "data": {"image": picture, "why": f"why {k}", "tile_id": k},
            "predictions": [
                {
                    "result": result() if shown is None else shown,
                    "score": ((k * 7) % count + 1) / (count + 1),
                    "model_version": "m1",
                }
            ],
        }
        for k in range(count)
    ]
    return client.import_tasks(project_id, tasks)


def by_score(ids: list[int]) -> list[int]:
    return [ids[k] for k in sorted(range(len(ids)), key=lambda k: (k * 7) % len(ids))]


def test_the_configuration_is_accepted_and_comes_back_the_same(client):
    for label_type in ("brush", "bitmask", "polygon"):
        project_id = make_project(client, f"config {label_type}", label_type)
        reading = read_config(client.project(project_id)["label_config"])
        assert reading.complete
        assert reading.label_type == label_type
        check_same_classes(reading, CLASSES)
        assert project_id in {p["id"] for p in client.projects()}


def test_user_and_version_are_known(client, real_label_studio):
    assert client.current_user()["email"] == real_label_studio.email
    assert client.version() == "1.23.2"


def test_the_server_serves_exactly_our_order(client, picture):
    project_id = make_project(client, "order")
    ids = fill(client, project_id, picture, 30)
    assert client.project(project_id)["model_version"] == "m1"
    assert [t["data"]["tile_id"] for t in client.tasks(project_id)] == list(range(30))
    served = []
    while (task := person.next_task(client, project_id)) is not None:
        assert person.next_task_by_action(client, project_id)["id"] == task["id"]
        served.append(task["id"])
        client.create_annotation(task["id"], [], 1.0)
    assert served == by_score(ids)
    assert person.next_task_by_action(client, project_id) is None


def test_a_new_version_replaces_the_old_one_without_duplicates(client, picture):
    project_id = make_project(client, "roll-out")
    ids = fill(client, project_id, picture, 6)
    fresh = [
        {"task": i, "result": result(), "score": (n + 1) / 7, "model_version": "m2"}
        for n, i in enumerate(reversed(ids))
    ]
    assert client.import_predictions(project_id, fresh) == 6
    assert client.model_versions(project_id) == {"m1": 6, "m2": 6}
    client.set_model_version(project_id, "m2")
    assert client.delete_model_version(project_id, "m1") == 6
    assert client.project(project_id)["model_version"] == "m2"
    assert person.next_task(client, project_id)["id"] == ids[-1]
    assert person.delete_predictions_of_tasks(client, project_id, ids[:2]) == 2
    assert [len(client.task(i)["predictions"]) for i in ids] == [0, 0, 1, 1, 1, 1]
    assert client.project(project_id)["model_version"] == "m2"


def test_a_prediction_changes_in_place_and_keeps_its_id(client, picture):
    project_id = make_project(client, "in place")
    ids = fill(client, project_id, picture, 3)
    before = client.task(ids[2])["predictions"][0]
    client.update_prediction(before["id"], score=0.001)
    assert person.next_task(client, project_id)["id"] == ids[2]
    client.update_prediction(before["id"], model_version="m2", result=[])
    after = client.prediction(before["id"])
    assert (after["model_version"], after["result"], after["score"]) == ("m2", [], 0.001)
    client.delete_prediction(before["id"])
    with pytest.raises(NotFound):
        client.prediction(before["id"])


def test_an_annotation_names_the_prediction_it_came_from_as_long_as_that_exists(client, picture):
    """The server neither tells the prediction itself, nor accepts a submit from one that is gone."""
    project_id = make_project(client, "parents")
    ids = fill(client, project_id, picture, 2)
    shown = client.task(ids[0])["predictions"][0]
    made = client.create_annotation(ids[0], result(), 2.5, parent_prediction=shown["id"])
    read = person.annotation(client, made["id"])
    assert read["parent_prediction"] == shown["id"]
    assert "prediction" not in read
    assert client.task(ids[0])["annotations"][0]["parent_prediction"] == shown["id"]
    person.delete_predictions_of_tasks(client, project_id, ids)
    assert person.annotation(client, made["id"])["parent_prediction"] is None
    with pytest.raises(BadInput, match="does not exist"):
        client.create_annotation(ids[1], result(), 2.5, parent_prediction=shown["id"])


@pytest.mark.parametrize("label_type", ["brush", "bitmask", "polygon"])
def test_what_we_write_comes_back_as_the_same_mask(client, picture, label_type):
    project_id = make_project(client, f"round trip {label_type}", label_type)
    sent = result("whole tile", label_type)
    (task_id,) = fill(client, project_id, picture, 1, sent)
    made = client.create_annotation(task_id, client.task(task_id)["predictions"][0]["result"], 1.0)
    reading = result_to_mask(
        person.annotation(client, made["id"])["result"], width=WIDTH, height=HEIGHT, classes=CLASSES, shown=sent
    )
    # Outlines have few corners, so that people can move them: they leave the pixels' edges by 0.75 px at most.
    free = _beside_a_boundary(class_map()) if label_type == "polygon" else np.zeros((HEIGHT, WIDTH), bool)
    assert (reading.mask == class_map())[~free].all()
    assert (reading.mask == _read(sent).mask).all()
    assert reading.origin == "confirmed"


def _read(sent: list[dict[str, Any]]) -> MaskReading:
    return result_to_mask(sent, width=WIDTH, height=HEIGHT, classes=CLASSES, shown=sent)


def _beside_a_boundary(classes: np.ndarray) -> np.ndarray:
    """Pixels that touch one of another class."""
    around = [np.roll(np.pad(classes, 1, mode="edge"), step, axis)[1:-1, 1:-1] for step in (1, -1) for axis in (0, 1)]
    return np.any([classes != moved for moved in around], axis=0)


def test_changes_are_found_by_time_and_deletions_by_difference(client, picture):
    project_id = make_project(client, "changes")
    ids = fill(client, project_id, picture, 4)
    time.sleep(0.05)
    since = datetime.now(UTC)
    made = client.create_annotation(ids[1], result(), 1.0)
    skipped = client.create_annotation(ids[2], result(), 1.0, was_cancelled=True)
    assert {t["id"] for t in client.tasks(project_id, since)} == {ids[1], ids[2]}
    assert list(client.tasks(project_id, datetime.now(UTC) + timedelta(hours=1))) == []
    assert client.annotation_ids(project_id) == {ids[1]: (made["id"],), ids[2]: (skipped["id"],)}
    assert [t["id"] for t in client.tasks(project_id, unlabelled_only=True)] == [ids[0], ids[2], ids[3]]
    person.delete_annotation(client, made["id"])
    assert client.annotation_ids(project_id) == {ids[2]: (skipped["id"],)}
    assert client.delete_tasks(project_id, ids[:2]) == 2
    assert [t["id"] for t in client.tasks(project_id)] == ids[2:]
    with pytest.raises(NotFound):
        client.task(ids[0])


def test_a_draft_is_seen_in_a_light_listing_and_a_lock_is_not(client, picture):
    project_id = make_project(client, "begun")
    ids = fill(client, project_id, picture, 3)
    locked = person.next_task(client, project_id)["id"]
    other = next(i for i in ids if i != locked)
    client._call("POST", f"/api/tasks/{other}/drafts", json={"result": result(), "lead_time": 1})
    rows = {t["id"]: t for t in client.tasks(project_id, fields_all=False, columns=("draft_exists",))}
    assert {i: rows[i]["draft_exists"] for i in ids} == {i: i == other for i in ids}
    assert not [key for key in rows[locked] if "lock" in key]
    assert "predictions" not in rows[locked]


def test_task_data_is_replaced_whole(client, picture):
    project_id = make_project(client, "data")
    (task_id,) = fill(client, project_id, picture, 1)
    client.update_task_data(task_id, {"image": picture, "why": "new"})
    assert client.task(task_id)["data"] == {"image": picture, "why": "new"}


def test_repeating_a_submit_with_its_unique_id_is_a_conflict(client, picture):
    project_id = make_project(client, "unique")
    (task_id,) = fill(client, project_id, picture, 1)
    unique_id = str(uuid.uuid4())
    client.create_annotation(task_id, [], unique_id=unique_id)
    with pytest.raises(Conflict):
        client.create_annotation(task_id, [], unique_id=unique_id)


def test_backend_and_webhooks_are_connected_and_heard_from(client, picture, listener):
    project_id = make_project(client, "hooks")
    (task_id,) = fill(client, project_id, picture, 1)
    backend = client.add_ml_backend(project_id, listener.url, "ours", "user", "password")
    assert backend["model_version"] == "m1"
    assert client.project(project_id)["model_version"] == "m1"
    person.start_training(client, backend["id"])
    assert parse_webhook(listener.bodies("/webhook")[-1]).action == "START_TRAINING"
    (automatic,) = client.webhooks(project_id)
    person.update_webhook(client, automatic["id"], f"{listener.url}/hook", {"X-Secret": "s3"}, ["ANNOTATION_CREATED"])
    client.create_annotation(task_id, result(), 1.0)
    path, headers, body = listener.received[-1]
    assert path == "/hook"
    assert headers["X-Secret"] == "s3"
    event = parse_webhook(body)
    assert (event.action, event.project_id, event.task_ids) == ("ANNOTATION_CREATED", project_id, (task_id,))
    client.delete_webhook(automatic["id"])
    second = client.add_webhook(project_id, f"{listener.url}/second", {"X-Secret": "s4"})
    assert [h["id"] for h in client.webhooks(project_id)] == [second["id"]]
    changed = person.update_ml_backend(client, backend["id"], project_id, listener.url, "ours", "user", "other")
    assert changed["state"] == "CO"
    assert [b["id"] for b in client.ml_backends(project_id)] == [backend["id"]]
    client.delete_ml_backend(backend["id"])
    assert client.ml_backends(project_id) == []


def test_a_personal_access_token_works_and_is_renewed(client, real_label_studio):
    with httpx.Client(base_url=real_label_studio.url, trust_env=False) as web:
        web.get("/user/login/")
        web.post(
            "/user/login/",
            data={
                "csrfmiddlewaretoken": web.cookies["csrftoken"],
                "email": real_label_studio.email,
                "password": real_label_studio.password,
            },
        )
        token = web.post("/api/token/", headers={"X-CSRFToken": web.cookies["csrftoken"]}).json()["token"]
    with LabelStudioClient(real_label_studio.url, token) as personal:
        assert personal.current_user()["email"] == real_label_studio.email
        assert personal.create_project("by personal token", labelling_config(CLASSES))["id"]
        personal._connection._access = ("worn.out.token", personal._connection._clock())
        assert personal.current_user()["email"] == real_label_studio.email


def test_pictures_are_fetched_with_the_token(client, picture, real_label_studio):
    project_id = make_project(client, "pictures")
    folder = {"project": project_id, "path": str(real_label_studio.pictures), "use_blob_urls": True}
    client._call("POST", "/api/storages/localfiles", json=folder)
    content = (real_label_studio.pictures / "a.png").read_bytes()
    assert client.fetch_image(picture) == content
    assert client.fetch_image(real_label_studio.url + picture) == content
    with pytest.raises(NotFound):
        client.fetch_image("/data/local-files/?d=tiles/none.png")
