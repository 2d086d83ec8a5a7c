"""Row 1: the API is killed in the middle of a webhook, of an answer to Label Studio, and of a head going out."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from backend.store.tables import Inbox
from tests.reliability.fault_log import FaultLog
from tests.reliability.ring import Ring

pytestmark = [pytest.mark.processes, pytest.mark.labelstudio, pytest.mark.torch, pytest.mark.timeout(900)]


@contextmanager
def _keep_asking(ask: Any) -> Iterator[None]:
    """Ask again and again from four threads, ten times a second each, until the block ends."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(0.1):
            ask()

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def _delivery(project_id: int, ls_task_id: int, number: int) -> dict[str, Any]:
    return {
        "action": "ANNOTATION_CREATED",
        "project": {"id": project_id},
        "task": {"id": ls_task_id},
        "annotation": {"id": number, "task": ls_task_id, "updated_at": "2026-03-01T10:00:00Z", "result": []},
    }


def test_a_webhook_is_stored_or_not_acknowledged_when_the_api_is_killed(ring: Ring, log: FaultLog) -> None:
    task, project_id = ring.waiting()[0], ring.stack.ls_project_id
    numbers, lock = itertools.count(5_000_000 + ring.inbox() * 1000), threading.Lock()
    before = _stored(ring)
    answers: dict[int, int | None] = {}

    with ring.api() as api:

        def send(number: int) -> None:
            try:
                answers[number] = api.post("/webhook", json=_delivery(project_id, task, number)).status_code
            except httpx.TransportError:
                answers[number] = None

        def ask() -> None:
            with lock:
                number = next(numbers)
            send(number)

        with _keep_asking(ask):
            for _ in range(2):
                sent = len(answers)
                ring.until(
                    lambda n=sent: len([a for a in answers.values() if a == 200]) > 5 and len(answers) > n + 8, 60
                )
                ring.kill("api")
                log.struck()
                ring.until(lambda: ring.alive("api") and api.get("/health").status_code == 200, 60)
        stored = _stored(ring)
        assert {n for n, status in answers.items() if status == 200} <= stored
        cut = [n for n, status in answers.items() if status != 200]
        assert cut, "no delivery was under way when the API was killed"
        for number in cut:
            send(number)  # the same again, as any client may
            assert answers[number] == 200
    assert set(answers) == _stored(ring) - before
    ring.until(lambda: ring.inbox(waiting_only=True) == 0, 90, 0.5)
    ring.recover()
    seen = f"{len(answers)} deliveries, {len(cut)} cut off and sent again; each acknowledged one is stored, once"
    log.recovered(row=1, fault="kill -9 API in the middle of webhooks", seen=seen)


def _stored(ring: Ring) -> set[int]:
    with ring.database.transaction() as session:
        payloads = session.scalars(select(Inbox.payload)).all()
    numbers = {int((p.get("annotation") or {}).get("id", 0)) for p in payloads}
    return {n for n in numbers if n >= 5_000_000}


def test_label_studio_gets_the_champions_predictions_again_when_the_api_was_killed_while_answering(
    ring: Ring, log: FaultLog
) -> None:
    version = ring.champion().version
    body = {"tasks": [{"id": n, "data": {}} for n in ring.waiting()]}
    answers: list[int | None] = []

    with ring.api() as api:

        def ask() -> None:
            try:
                answers.append(api.post("/predict", json=body).status_code)
            except httpx.TransportError:
                answers.append(None)

        with _keep_asking(ask):
            ring.until(lambda: len(answers) >= 4, 60)
            ring.kill("api")
            log.struck()
            ring.until(lambda: ring.alive("api") and api.get("/health").status_code == 200, 60)
        assert None in answers
        answered = api.post("/predict", json=body).json()
    assert answered["model_version"] == version
    assert len(answered["results"]) == len(body["tasks"])
    assert {r["model_version"] for r in answered["results"]} == {version}
    ring.recover()
    log.recovered(row=1, fault="kill -9 API while it answers /predict", seen="asked again, all predictions are there")


def test_a_head_that_is_going_out_gets_whole_when_the_api_is_killed(ring: Ring, log: FaultLog) -> None:
    champion = ring.champion()
    back = ring.stack.cli("models", "rollback")["champion"]
    ring.kill("api")
    log.struck()
    ring.recover(90)
    assert ring.stack.client.project(ring.stack.ls_project_id)["model_version"] == back
    log.recovered(row=1, fault="kill -9 API while a new head goes out", seen=f"Label Studio shows {back}, whole")
    ring.stack.cli("models", "rollback", "--to", champion.version)
    ring.recover(90)
