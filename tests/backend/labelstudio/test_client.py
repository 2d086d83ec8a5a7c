from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from backend.labelstudio.client import IMPORT_CHUNK, PAGE_SIZE, LabelStudioClient
from mpamatch.errors import BadInput, Conflict, NotFound, Unavailable
from tests import label_studio_person as person

URL = "http://label.example:8080"
pytestmark = pytest.mark.shared


class Server:
    """A server that answers with recordings, by method and path, or with a function."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response]) -> None:
        self.answer = answer
        self.requests: list[httpx.Request] = []
        self.client = LabelStudioClient(URL, "t" * 40, transport=httpx.MockTransport(self._handle))

    def _handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answer(request)

    def body(self, number: int = 0) -> Any:
        return json.loads(self.requests[number].content)


def replay(exchange: dict[str, Any]) -> Server:
    """Answers like one recorded exchange, and insists on its method and path."""

    def answer(request: httpx.Request) -> httpx.Response:
        wanted = httpx.URL(URL + exchange["request"]["path"])
        assert request.method == exchange["request"]["method"]
        assert request.url.path.rstrip("/") == wanted.path.rstrip("/")
        assert set(wanted.params.items()) <= set(request.url.params.items())
        return httpx.Response(exchange["status"], json=exchange["response"])

    return Server(answer)


def answering(status: int, value: Any) -> Server:
    return Server(lambda request: httpx.Response(status, json=value))


def test_a_project_is_created_with_its_settings(recorded):
    server = replay(recorded("rest-project-create")[0])
    assert server.client.create_project("Fixture project", "<View/>", sampling="Uncertainty sampling")["id"] == 56
    assert server.body() == {"title": "Fixture project", "label_config": "<View/>", "sampling": "Uncertainty sampling"}


def test_a_backend_is_added_with_its_password(recorded):
    server = replay(recorded("ml-create")[0])
    assert server.client.add_ml_backend(56, "http://127.0.0.1:19090", "pathology", "ls", "example-pass")["id"] == 10
    sent, once = server.body(), recorded("ml-create")[0]["request"]["json"]
    for key in ("url", "project", "title", "auth_method", "basic_auth_user", "basic_auth_pass"):
        assert sent[key] == once[key]


def test_training_is_started_and_the_empty_answer_accepted(recorded):
    call = recorded("ml-train")["label_studio_call"][0]
    server = Server(lambda request: httpx.Response(call["status"], text=call["response"]))
    assert person.start_training(server.client, 10) is None
    assert server.requests[0].url.path == call["request"]["path"]


def test_a_webhook_is_created_with_its_secret(recorded):
    once = recorded("webhook-create")[0]
    server = replay(once)
    made = server.client.add_webhook(
        56, once["request"]["json"]["url"], {"X-Webhook-Secret": "s"}, ["ANNOTATION_CREATED"]
    )
    assert made["id"] == once["response"]["id"]
    assert server.body()["headers"] == {"X-Webhook-Secret": "s"}
    assert server.body()["send_for_all_actions"] is False


def test_the_webhook_that_came_with_a_backend_is_listed(recorded):
    server = answering(200, recorded("ml-auto-webhook"))
    assert server.client.webhooks(56)[0]["headers"] == {}


def test_tasks_are_imported_in_order(recorded):
    once = recorded("rest-import-tasks")[0]
    server = replay(once)
    assert server.client.import_tasks(56, once["request"]["json"]) == [1592, 1593, 1594]


def test_a_large_import_goes_in_pieces_and_keeps_its_order():
    def answer(request: httpx.Request) -> httpx.Response:
        ids = [t["data"]["n"] for t in json.loads(request.content)]
        return httpx.Response(201, json={"task_ids": ids, "prediction_count": len(ids)})

    server = Server(answer)
    tasks = [{"data": {"n": n}, "predictions": [{}]} for n in range(2 * IMPORT_CHUNK + 1)]
    assert server.client.import_tasks(1, tasks) == list(range(2 * IMPORT_CHUNK + 1))
    assert [len(server.body(n)) for n in range(3)] == [IMPORT_CHUNK, IMPORT_CHUNK, 1]


def test_tasks_or_their_predictions_that_went_missing_are_noticed():
    for answer in ({"task_ids": [1], "prediction_count": 2}, {"task_ids": [1, 2], "prediction_count": 1}):
        with pytest.raises(Conflict, match="import of tasks"):
            answering(201, answer).client.import_tasks(1, [{"data": {}, "predictions": [{}]}] * 2)


def test_predictions_dropped_in_silence_are_noticed(recorded):
    dropped, foreign = recorded("rest-prediction-import")
    with pytest.raises(Conflict, match="1 of 2 were dropped"):
        replay(dropped).client.import_predictions(56, dropped["request"]["json"])
    with pytest.raises(BadInput, match="couldn't be retrieved"):
        replay(foreign).client.import_predictions(56, foreign["request"]["json"])


def test_imported_predictions_are_counted():
    assert answering(201, {"created": 2}).client.import_predictions(1, [{"task": 1}, {"task": 2}]) == 2
    server = answering(201, {"created": 0})
    assert server.client.import_predictions(1, []) == 0
    assert not server.requests


def test_versions_are_listed_set_and_deleted(recorded):
    assert replay(recorded("rest-model-versions")[0]).client.model_versions(56) == {
        "seg-2": 3,
        "seg-1": 1,
        "pathology": 0,
    }
    unknown, known = recorded("rest-model-version-set")
    with pytest.raises(BadInput, match="doesn't exist"):
        replay(unknown).client.set_model_version(56, "nope")
    server = replay(known)
    server.client.set_model_version(56, "seg-2")
    assert server.body() == {"model_version": "seg-2"}
    deleted = replay(recorded("rest-model-version-delete")[0])
    assert deleted.client.delete_model_version(56, "seg-3") == 1
    assert deleted.body() == {"model_version": "seg-3"}


def test_the_next_task_comes_with_its_queue_and_none_is_none(recorded):
    assert person.next_task(replay(recorded("rest-next-task")[0]).client, 56)["id"] == 1594
    empty = recorded("rest-next-empty")[0]
    assert person.next_task(replay(empty).client, 56) is None
    assert person.next_task_by_action(answering(empty["status"], empty["response"]).client, 56) is None
    with pytest.raises(NotFound):
        person.next_task(answering(404, {"detail": "No Project matches the given query."}).client, 99)


def test_label_all_tasks_is_asked_for_as_the_page_does(recorded):
    pressed = next(r for r in recorded("ui-next-task-requests") if "Label All Tasks" in r["how"])
    server = answering(200, {"id": 1})
    person.next_task_by_action(server.client, 24)
    assert server.body() == pressed["body"]
    assert server.requests[0].url.params["id"] == "next_task"


def test_one_task_has_the_predictions_of_all_versions(recorded):
    task = replay(recorded("rest-task-detail")[0]).client.task(1593)
    assert [p["model_version"] for p in task["predictions"]] == ["seg-2", "seg-4"]


def test_an_annotation_is_created_and_a_repeated_unique_id_is_a_conflict(recorded):
    once = recorded("rest-annotation-create")[0]
    server = replay(once)
    made = server.client.create_annotation(1592, once["request"]["json"]["result"], 3.5)
    assert made["id"] == 450
    assert server.body() == once["request"]["json"]
    first, again, wrong = recorded("rest-annotation-unique-id")
    unique_id = first["request"]["json"]["unique_id"]
    assert replay(first).client.create_annotation(1594, [], unique_id=unique_id)["id"] == 453
    with pytest.raises(Conflict, match="already exists"):
        replay(again).client.create_annotation(1594, [], unique_id=unique_id)
    assert wrong["status"] == 500


def test_a_configuration_that_labels_contradict_is_refused_in_the_servers_words(recorded):
    for conflict, words in zip(recorded("rest-label-config-conflict"), ("incompatible", "Start Tag"), strict=True):
        with pytest.raises(BadInput, match=words):
            replay(conflict).client.update_project(56, **conflict["request"]["json"])


def test_predictions_of_tasks_are_deleted_by_the_data_manager(recorded):
    once = recorded("rest-dm-delete-predictions")[0]
    server = replay(once)
    assert person.delete_predictions_of_tasks(server.client, 56, [1, 2]) == 5
    assert server.body() == {"selectedItems": {"all": False, "included": [1, 2]}}


def test_deleting_no_tasks_asks_nothing():
    """An empty selection must never be sent: the server might read it as all."""
    server = answering(200, {"processed_items": 99})
    assert server.client.delete_tasks(1, []) == 0
    assert person.delete_predictions_of_tasks(server.client, 1, []) == 0
    assert not server.requests


def pages(count: int, *, status_past_the_end: int = 404) -> Server:
    def answer(request: httpx.Request) -> httpx.Response:
        start = (int(request.url.params["page"]) - 1) * PAGE_SIZE
        found = [{"id": n} for n in range(start, min(start + PAGE_SIZE, count))]
        if not found and start:
            return httpx.Response(status_past_the_end, json={"detail": "Invalid page."})
        return httpx.Response(200, json={"tasks": found, "total": count})

    return Server(answer)


@pytest.mark.parametrize("count", [0, 1, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1, 3 * PAGE_SIZE])
def test_pages_are_read_to_the_end_and_the_one_past_it_is_the_end(count):
    assert [t["id"] for t in pages(count).client.tasks(1)] == list(range(count))


def test_a_missing_project_is_not_taken_for_the_end():
    with pytest.raises(NotFound):
        list(answering(404, {"detail": "No Project matches the given query."}).client.tasks(99))


def test_tasks_changed_since_are_asked_for_in_the_one_form_the_server_reads():
    server = pages(0)
    since = datetime(2030, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    list(server.client.tasks(7, since))
    query = json.loads(server.requests[0].url.params["query"])
    assert query["filters"]["items"] == [
        {
            "filter": "filter:tasks:updated_at",
            "operator": "greater",
            "type": "Datetime",
            "value": "2030-01-02T01:04:05.000000Z",
        }
    ]
    assert query["ordering"] == ["tasks:id"]
    with pytest.raises(BadInput, match="time zone"):
        list(server.client.tasks(7, datetime(2030, 1, 2, tzinfo=UTC).replace(tzinfo=None)))


def test_a_light_listing_asks_for_the_columns_it_names():
    server = pages(0)
    list(server.client.tasks(7, fields_all=False, unlabelled_only=True, columns=("draft_exists",)))
    params = server.requests[0].url.params
    assert "fields" not in params
    query = json.loads(params["query"])
    assert "tasks:draft_exists" not in query["hiddenColumns"]["explore"]
    assert "tasks:predictions_results" in query["hiddenColumns"]["explore"]
    assert query["filters"]["items"][0]["filter"] == "filter:tasks:total_annotations"


def test_annotation_ids_are_read_by_task_and_a_cut_text_is_completed():
    long = ",".join(str(n) for n in range(1000, 1120))[:500]

    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/api/tasks/3":
            return httpx.Response(200, json={"id": 3, "annotations": [{"id": n} for n in range(1000, 1120)]})
        rows = [
            {"id": 1, "annotations_ids": "12, 11"},
            {"id": 2, "annotations_ids": ""},
            {"id": 3, "annotations_ids": long},
        ]
        return httpx.Response(200, json={"tasks": rows})

    assert Server(answer).client.annotation_ids(1) == {1: (11, 12), 3: tuple(range(1000, 1120))}


def test_a_picture_comes_from_the_connected_server_alone():
    server = Server(lambda request: httpx.Response(200, content=b"png"))
    assert server.client.fetch_image("/data/upload/1/a b.png") == b"png"
    assert server.client.fetch_image(f"{URL}/data/a.png") == b"png"
    assert {r.url.host for r in server.requests} == {"label.example"}
    for url in (
        "http://169.254.169.254/latest",
        "file:///etc/passwd",
        "//evil.example/a",
        "s3://bucket/a",
        f"{URL}0/a",
    ):
        with pytest.raises(BadInput, match="not below"):
            server.client.fetch_image(url)
    assert len(server.requests) == 2


def test_projects_are_read_page_by_page():
    def answer(request: httpx.Request) -> httpx.Response:
        page = int(request.url.params["page"])
        return httpx.Response(200, json={"results": [{"id": page}], "next": "there" if page < 3 else None})

    assert [p["id"] for p in Server(answer).client.projects()] == [1, 2, 3]


def test_an_answer_of_another_shape_is_said_as_such_and_not_as_a_fault_of_ours():
    server = answering(200, {"items": [], "count": 0})
    with pytest.raises(Unavailable, match="GET /api/tasks: answers differently than expected: without `tasks`"):
        list(server.client.tasks(56))
    with pytest.raises(Unavailable, match="without `annotations`"):
        server.client.task(1)
