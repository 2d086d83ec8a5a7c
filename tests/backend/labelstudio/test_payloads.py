from __future__ import annotations

import contextlib
import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.labelstudio.payloads import load_json, parse_webhook, redact
from mpamatch.errors import BadInput

UPDATED = "2026-11-23T12:45:26.188007Z"
CREATED = {
    "action": "ANNOTATION_CREATED",
    "annotation": {"id": 450, "task": 1592, "updated_at": UPDATED, "result": []},
    "task": {"id": 1592},
    "project": {"id": 56, "token": "0" * 40, "task_data_password": "geheim"},
}


def event(**changes):
    return parse_webhook({**copy.deepcopy(CREATED), **changes})


def test_an_annotation_event_names_its_annotation_task_and_project():
    found = event()
    assert found.action == "ANNOTATION_CREATED"
    assert (found.project_id, found.task_ids, found.annotation_ids) == (56, (1592,), (450,))
    assert found.dedupe_key == f"ANNOTATION_CREATED:450:{UPDATED}"


def test_the_same_event_has_the_same_key_whatever_else_the_body_says():
    assert event(project={"id": 56, "task_number": 9}).dedupe_key == event().dedupe_key


def test_a_later_change_another_action_or_another_object_has_another_key():
    later = {**CREATED["annotation"], "updated_at": UPDATED.replace("26.", "27.")}
    other = {**CREATED["annotation"], "id": 451}
    keys = {event().dedupe_key, event(annotation=later).dedupe_key, event(annotation=other).dedupe_key}
    assert len(keys | {event(action="ANNOTATION_UPDATED").dedupe_key}) == 4


def test_deletions_carry_no_time_so_their_body_is_the_key():
    one = {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 450}], "project": {"id": 56}}
    two = {**one, "annotations": [{"id": 451}]}
    assert parse_webhook(one).updated_at is None
    assert parse_webhook(one).dedupe_key == parse_webhook(dict(reversed(one.items()))).dedupe_key
    assert parse_webhook(one).dedupe_key != parse_webhook(two).dedupe_key


def test_two_requests_to_train_differ_by_their_delivery_alone():
    body = {"action": "START_TRAINING", "project": {"id": 56}}
    first = parse_webhook(body, delivery="2030-01-01T10:00:00Z").dedupe_key
    assert parse_webhook(body, delivery="2030-01-01T10:00:00Z").dedupe_key == first
    assert parse_webhook(body, delivery="2030-01-01T11:00:00Z").dedupe_key != first


def test_an_import_of_thousands_of_tasks_has_a_short_key():
    tasks = [{"id": n, "updated_at": UPDATED} for n in range(1, 3000)]
    found = parse_webhook({"action": "TASKS_CREATED", "tasks": tasks, "project": {"id": 1}})
    assert len(found.task_ids) == 2999
    assert len(found.dedupe_key) < 100


EXPECTED = {
    "ANNOTATION_CREATED": ((1592,), (450,)),
    "ANNOTATION_CREATED-skip": ((1593,), (451,)),
    "ANNOTATION_UPDATED": ((1592,), (450,)),
    "ANNOTATIONS_CREATED": ((1594,), (452,)),
    "ANNOTATIONS_DELETED": ((), (450,)),
    "ANNOTATIONS_DELETED-bulk": ((), (451, 452)),
    "TASKS_CREATED": ((1592, 1593, 1594), ()),
    "TASKS_DELETED": ((1592, 1593), ()),
    "PROJECT_UPDATED": ((), ()),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", EXPECTED)
def test_every_recorded_webhook_is_understood(recorded, name):
    for delivery in recorded(f"webhook-{name}"):
        body = json.dumps(delivery["body"]).encode()
        found = parse_webhook(body)
        assert found.action == name.split("-")[0]
        assert (found.project_id, (found.task_ids, found.annotation_ids)) == (56, EXPECTED[name])
        assert parse_webhook(body) == found


@pytest.mark.shared
def test_all_recorded_events_have_different_keys(recorded):
    keys = [parse_webhook(d["body"]).dedupe_key for name in EXPECTED for d in recorded(f"webhook-{name}")]
    assert len(set(keys)) == len(keys)


@pytest.mark.shared
def test_the_recorded_request_to_train_is_understood(recorded):
    body = recorded("ml-train")["ml_backend_received"][0]["body"]
    assert (parse_webhook(body).action, parse_webhook(body).project_id) == ("START_TRAINING", 56)


@pytest.mark.parametrize(
    "changes",
    [
        {"action": None},
        {"action": "drop table"},
        {"action": "A" * 65},
        {"project": None},
        {"project": {"id": -1}},
        {"project": {"id": True}},
        {"project": {"id": 1 << 63}},
        {"project": {"id": 1.5}},
        {"annotation": {"id": None}},
        {"annotation": [3]},
        {"annotation": "x"},
        {"annotation": {"id": 3, "task": {"id": 4}}},
        {"task": {"id": "1; drop"}},
    ],
)
def test_a_body_that_names_nothing_is_refused(changes):
    with pytest.raises(BadInput):
        event(**changes)


@pytest.mark.parametrize("body", [b"[]", b"3", b"null", b'"x"'])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(BadInput):
        parse_webhook(body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"[" * 100_000,
        b"[" * 60 + b"]" * 60,
        b'{"a":' * 60 + b"1" + b"}" * 60,
        b"1" * 5000,
    ],
)
def test_what_is_no_plain_json_is_refused(body):
    with pytest.raises(BadInput):
        load_json(body)


def test_a_body_over_the_limit_is_refused_unread():
    with pytest.raises(BadInput, match="at most 10"):
        load_json(b" " * 11, max_bytes=10)


@pytest.mark.shared
def test_nothing_secret_of_a_recorded_body_is_kept(recorded):
    body = recorded("webhook-ANNOTATION_CREATED")[0]["body"]
    body["project"] |= {"token": "s3cret", "task_data_login": "s3cret", "task_data_password": "s3cret"}
    kept = redact(body)
    assert "s3cret" not in json.dumps(kept)
    assert kept["project"]["token"] is None
    assert kept["annotation"]["id"] == body["annotation"]["id"]
    assert kept["annotation"]["prediction"]["model_version"] == body["annotation"]["prediction"]["model_version"]
    assert body["project"]["token"] == "s3cret", "the body itself is left alone"


def test_names_and_addresses_of_people_are_not_kept():
    kept = redact({"annotation": {"created_username": "a@b.org, 1", "completed_by": 1}, "user": {"email": "a@b.org"}})
    assert "a@b.org" not in json.dumps(kept)
    assert kept["annotation"]["completed_by"] == 1


def test_predict_parameters_are_not_kept():
    kept = redact({"params": {"login": "u", "password": "p", "context": None}, "access_token": "t"})
    assert kept == {"params": {"login": None, "password": None, "context": None}, "access_token": None}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=4)
    ),
)


@given(json_values)
def test_what_is_kept_can_always_be_stored(value):
    text = json.dumps(redact(value), ensure_ascii=False, allow_nan=False)
    text.encode("utf-8")
    assert "\\u0000" not in text


@given(
    st.dictionaries(st.sampled_from(["action", "project", "task", "tasks", "annotation", "annotations"]), json_values)
)
def test_any_body_is_understood_or_refused_and_says_the_same_twice(body):
    with contextlib.suppress(BadInput):
        event = parse_webhook(body)
        assert event == parse_webhook(json.loads(json.dumps(body)))
        assert all(0 < number < 1 << 63 for number in (event.project_id, *event.task_ids, *event.annotation_ids))
        assert len(event.dedupe_key) <= 300


@given(st.binary(max_size=40) | json_values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes_are_plain_json_or_refused(body):
    with contextlib.suppress(BadInput):
        json.dumps(load_json(body))


def test_pixels_are_left_out_and_what_names_the_label_stays():
    kept = redact({"id": 7, "rle": list(range(256)) * 100, "imageDataURL": "data:" + "x" * 5000, "updated_at": "2026"})
    assert kept == {"id": 7, "rle": "25600 numbers", "imageDataURL": "text of 5005 characters", "updated_at": "2026"}
