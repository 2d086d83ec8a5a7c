"""Five hundred label events in ten seconds: one run, and no label that no run has seen.

The API process takes the deliveries while two workers' jobs apply them and ask for a run all the time. Label Studio is
stood in for by its tasks as they would be read: it could not take five hundred labels in ten seconds itself.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from backend.actions import show_tile
from backend.api_names import SECRET_HEADER
from backend.clock import utc_now
from backend.labelstudio.results import class_map_to_result, scope_item
from backend.settings import Endpoints, Settings, save_endpoints
from backend.store import projects
from backend.store.tables import Annotation, Inbox, Mask, Run, Task
from backend.wakeups import Wakeups
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.errors import BadInput, NotFound
from tests.builders import Installation, disc, installation
from tests.invariants import check_invariants
from tests.reliability.fault_log import FaultLog
from tests.reliability.running import free_port, running_api
from workers.jobs.sync import sync_project
from workers.parts import Parts

pytestmark = [pytest.mark.database, pytest.mark.processes, pytest.mark.timeout(900)]
EVENTS, STORM_S, WORKERS = 500, 10.0, 2
DEBOUNCE_S = 8.0  # longer than any hold-up of a busy machine: a real pause would rightly be a run of its own
LS_PROJECT, SECRET = 5, "a-secret"
CLASSES = ClassSet.from_names(["background", "gland"])


class Studio:
    """Tasks as Label Studio would answer them; a label appears at the moment at which its event is sent."""

    def __init__(self) -> None:
        self.held: dict[int, dict[str, Any]] = {}

    def task(self, task_id: int) -> dict[str, Any]:
        if task_id not in self.held:
            raise NotFound(f"task {task_id}", "404")
        return self.held[task_id]

    def close(self) -> None: ...

    def __getattr__(self, name: str) -> Any:
        """The head is not stood in for: that stage says so each time, and the others go on."""
        raise BadInput(name, "is not stood in for")


class WithStudio(Parts):
    """A worker's parts whose Label Studio is the one above."""

    studio: Any = None

    def client(self, project: Any) -> Any:
        return self.studio


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """Five hundred tiles, each a task, none labelled; a run starts after twelve labels and some quiet seconds."""
    policy = Policy(debounce_s=DEBOUNCE_S, retrain_after_tiles=12)
    made = installation(database_url, tmp_path / "state", train=EVENTS, audit=0, policy=policy)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.ls_project_id = LS_PROJECT
        project.ls_webhook_secret = made.keys.seal(SECRET)
        for number, tile in enumerate(made.tiles(), start=1):
            session.add(Task(project_id=project.id, tile_id=tile.id, ls_task_id=number, origin="head"))
    return made


def test_five_hundred_labels_in_ten_seconds_are_one_run_that_has_seen_them_all(
    made: Installation, database_url: str, redis_url: str, log: FaultLog
) -> None:
    settings = Settings(state=made.folder, database_url=database_url, broker_url=redis_url)
    save_endpoints(made.folder, Endpoints(database_url=database_url, broker_url=redis_url))
    studio, over, port = Studio(), threading.Event(), free_port()
    parts = WithStudio(settings, made.database, made.blobs, made.keys, Wakeups(redis_url), "host:1:1.0")
    object.__setattr__(parts, "studio", studio)

    def work() -> None:
        while not over.is_set():
            sync_project(parts, made.project_id, full=False)
            time.sleep(0.05)

    with running_api(settings, port), ThreadPoolExecutor(WORKERS + 4) as pool:
        working = [pool.submit(work) for _ in range(WORKERS)]
        began = time.monotonic()
        statuses = list(pool.map(lambda share: _send(made, studio, port, share), _shares(4)))
        sent_s = time.monotonic() - began
        log.struck()
        _until("a run was opened", lambda: _count(made, Run) > 0 or any(one.done() for one in working))
        time.sleep(5.0)  # time enough for a second one: its workers look twenty times a second
        over.set()
        for one in working:
            one.result()

    assert {status for share in statuses for status in share} == {200}
    assert _count(made, Inbox) == _count(made, Annotation) == EVENTS
    with made.database.transaction() as session:
        (run,) = session.scalars(select(Run))
        ledger = session.execute(select(Mask.first_run_id, func.count()).group_by(Mask.first_run_id)).all()
    assert [tuple(row) for row in ledger] == [(run.id, EVENTS)]
    snapshot = json.loads(made.blobs.get(run.snapshot_blob))
    assert len({row["tile"] for row in snapshot["labelled"]}) == EVENTS
    check_invariants(made.database, made.blobs, settled=False)
    seen = f"{EVENTS} deliveries in {sent_s:.0f} s, one run, and every one of the {EVENTS} masks is counted by it"
    log.recovered(row=10, fault="500 label events in 10 s ask for a run", seen=seen)


def _shares(count: int) -> Iterator[range]:
    return (range(1 + n, EVENTS + 1, count) for n in range(count))


def _send(made: Installation, studio: Studio, port: int, numbers: range) -> list[int]:
    """Label some tasks one after the other, evenly over the time of the storm, and tell of each."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    tiles, began, statuses = made.tiles(), time.monotonic(), []
    for place, number in enumerate(numbers):
        time.sleep(max(0.0, began + STORM_S * place / len(numbers) - time.monotonic()))
        tile, at = tiles[number - 1], utc_now().isoformat()
        result = [*class_map_to_result(disc(x=20 + number % 20), CLASSES), scope_item("whole tile")]
        annotation = {"id": 9000 + number, "result": result, "updated_at": at, "was_cancelled": False}
        link = show_tile.link(made.keys, "http://127.0.0.1:1", tile.id, utc_now())
        data = {"image": link, "tile_id": tile.id}
        studio.held[number] = {"id": number, "project": LS_PROJECT, "data": data, "annotations": [annotation]}
        body = {
            "action": "ANNOTATION_CREATED",
            "project": {"id": LS_PROJECT},
            "task": {"id": number},
            "annotation": {"id": 9000 + number, "task": number, "updated_at": at},
        }
        headers = {"content-type": "application/json", SECRET_HEADER: SECRET}
        connection.request("POST", "/ml/test-glands/webhook", json.dumps(body), headers)
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
    connection.close()
    return statuses


def _count(made: Installation, table: Any) -> int:
    with made.database.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def _until(what: str, holds: Callable[[], bool], limit_s: float = 600.0) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)
