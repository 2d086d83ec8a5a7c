"""Webhooks in a storm, and webhooks that never came, against the API process and a real Label Studio.

Whatever arrives, in the end the store says what Label Studio says: a delivery is a hint about where to look.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psutil
import pytest
from sqlalchemy import func, select

from backend.actions.connect_project import connect_project
from backend.actions.rank_queue import rank_queue
from backend.api_names import SECRET_HEADER
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.payloads import parse_webhook
from backend.labelstudio.results import class_map_to_result, scope_item
from backend.servers import EmbeddedPostgres, EmbeddedRedis
from backend.settings import Endpoints, Settings, save_endpoints
from backend.store import masks, projects
from backend.store.tables import Annotation, Inbox, Task
from backend.wakeups import Wakeups
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from tests import label_studio_person as person
from tests.builders import Installation, disc, installation, predict_all
from tests.invariants import check_invariants
from tests.label_studio_server import RealLabelStudio
from tests.reliability.fault_log import FaultLog
from tests.reliability.running import free_port, running_api, running_worker

pytestmark = [pytest.mark.database, pytest.mark.processes, pytest.mark.labelstudio, pytest.mark.timeout(900)]

DELIVERIES, FORGED, SENDERS = 10_000, 3_000, 8
TILES, LABELLED = 30, 24
TIMES = 70  # updates that are told of each annotation
GROWTH_BYTES = 64 << 20
RECOVERY_S = 120.0
CLASSES = ClassSet.from_names(["background", "gland"])


@dataclass
class Installed:
    """One project on the API process, the io worker and Label Studio, with every tile as a task there."""

    made: Installation
    settings: Settings
    client: LabelStudioClient
    port: int
    ls_project_id: int
    secret: str

    @property
    def path(self) -> str:
        return "/ml/test-glands/webhook"

    def wake(self) -> None:
        Wakeups(self.settings.require_broker_url()).sync(self.made.project_id, full=True)

    def tasks(self) -> list[int]:
        with self.made.database.transaction() as session:
            return list(session.scalars(select(Task.ls_task_id).where(Task.state != "gone").order_by(Task.id)))

    def label(self, ls_task_id: int, x: int) -> int:
        result = [*class_map_to_result(disc(x=x), CLASSES), scope_item("whole tile")]
        return int(self.client.create_annotation(ls_task_id, result, 3.0)["id"])

    def inbox_keys(self) -> list[str]:
        with self.made.database.transaction() as session:
            return list(session.scalars(select(Inbox.dedupe_key)))

    def waiting(self) -> int:
        with self.made.database.transaction() as session:
            query = select(func.count()).select_from(Inbox).where(Inbox.applied_at.is_(None))
            return session.scalar(query) or 0

    def store(self) -> dict[int, tuple[int, datetime]]:
        """Of each annotation that is there: its task and when it was last changed."""
        with self.made.database.transaction() as session:
            rows = session.scalars(select(Annotation).where(Annotation.state == "present"))
            return {row.ls_annotation_id: (row.ls_task_id, row.updated_at) for row in rows}

    def truth(self) -> dict[int, tuple[int, datetime]]:
        """The same from Label Studio."""
        return {
            int(a["id"]): (int(task["id"]), datetime.fromisoformat(a["updated_at"]))
            for task in self.client.tasks(self.ls_project_id)
            for a in task["annotations"]
        }

    def await_truth(self) -> None:
        """Until the store says what Label Studio says and nothing waits in the inbox."""
        began, truth = time.monotonic(), self.truth()
        while self.store() != truth or self.waiting():
            assert time.monotonic() - began < RECOVERY_S, self.last_words()
            time.sleep(0.2)

    def last_words(self) -> str:
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in sorted(self.settings.state.glob("*.log")))


@pytest.fixture(scope="module")
def installed(
    postgres: EmbeddedPostgres,
    migrated_template: str,
    redis_server: EmbeddedRedis,
    real_label_studio: RealLabelStudio,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Installed]:
    state, port = tmp_path_factory.mktemp("webhooks"), free_port()
    url = postgres.create_database("webhooks", template=migrated_template)
    policy = Policy(debounce_s=0, retrain_after_tiles=1000, head_size=TILES)
    made = installation(url, state, train=TILES, audit=0, policy=policy)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    rank_queue(made.database, made.project_id)
    save_endpoints(state, Endpoints(database_url=url, broker_url=redis_server.url))
    settings = Settings(state=state, database_url=url, broker_url=redis_server.url, api_port=port)
    with ExitStack() as stack:
        client = stack.enter_context(LabelStudioClient(real_label_studio.url, real_label_studio.token))
        with running_api(settings, port):  # Label Studio asks it for its health before it is connected
            ls_project_id = connect_project(
                made.database,
                made.keys,
                client,
                made.project_id,
                url=real_label_studio.url,
                token=real_label_studio.token,
                backend_url=f"http://127.0.0.1:{port}",
            )
            sealed = made.project().ls_webhook_secret
            assert sealed is not None
            stack.enter_context(running_worker(settings, "io"))
            found = Installed(made, settings, client, port, ls_project_id, made.keys.open(sealed))
            found.wake()
            _until("every tile is a task", lambda: len(found.tasks()) == TILES)
        yield found
    made.database.close()
    postgres.drop_database("webhooks")


def _until(what: str, holds: Callable[[], bool], limit_s: float = RECOVERY_S) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_a_storm_of_ten_thousand_leaves_what_label_studio_says(installed: Installed, log: FaultLog) -> None:
    with running_api(installed.settings, installed.port) as api:
        labels = {installed.label(task, x=20 + n): task for n, task in enumerate(installed.tasks()[:LABELLED])}
        genuine, forged = _deliveries(installed, labels)
        accepted = {parse_webhook(body).dedupe_key for body in genuine}
        before, resident = set(installed.inbox_keys()), api.memory_info().rss
        sent = [*[(body, installed.secret) for body in genuine], *forged]
        random.Random(7).shuffle(sent)
        assert len(sent) == DELIVERIES
        began = time.monotonic()
        with _watched(api) as most:
            changing = threading.Thread(target=_change, args=(installed, list(labels)))
            changing.start()
            answers = _send(installed, sent)
            changing.join()
        storm_s = time.monotonic() - began
        log.struck()
        installed.await_truth()
        growth = max(most) - resident

    refused = [status for status, secret in answers if secret != installed.secret]
    assert set(refused) == {401}
    assert len(refused) == FORGED
    assert {status for status, secret in answers if secret == installed.secret} == {200}
    keys = installed.inbox_keys()
    assert accepted <= set(keys)
    assert len(keys) == len(set(keys))
    assert not [key for key in set(keys) - before - accepted if key.startswith("FORGED")]
    assert growth < GROWTH_BYTES
    with installed.made.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Inbox).where(Inbox.problem.is_not(None))) == 0
        counting = masks.current(session, installed.made.project_id)
    assert len(counting) == len(installed.truth())  # one annotation a task, and each counts once
    check_invariants(installed.made.database, installed.made.blobs, client=installed.client)
    seen = (
        f"{DELIVERIES / storm_s:.0f} a second; {len(accepted)} kept once each, {FORGED} forged ones refused with 401, "
        f"none of them kept; the API grew by {max(0, growth) / 1e6:.0f} MB (bound {GROWTH_BYTES / 1e6:.0f}); "
        "the store says what Label Studio says"
    )
    log.recovered(row=10, fault="10,000 webhooks: repeated, in any order, forged, of deletions", seen=seen)


def _deliveries(
    installed: Installed, labels: dict[int, int]
) -> tuple[list[dict[str, Any]], list[tuple[dict[str, Any], str | None]]]:
    """Genuine ones, most of them several times, and forged ones; half of what they say was never so."""
    distinct: list[dict[str, Any]] = []
    for number, (annotation_id, task_id) in enumerate(labels.items()):
        for minute in range(TIMES):
            at = f"2026-03-01T{minute // 60:02}:{minute % 60:02}:00.{number:06}Z"
            distinct.append(_body(installed, "ANNOTATION_UPDATED", annotation_id, task_id, at))
        distinct.append(_deletion(installed, [annotation_id]))
        distinct.append(
            _body(installed, "ANNOTATION_CREATED", 900_000 + annotation_id, task_id, "2026-03-01T09:00:00Z")
        )
    distinct.append(_deletion(installed, list(labels)))
    genuine = (distinct * (DELIVERIES // len(distinct) + 1))[: DELIVERIES - FORGED]
    secrets = (None, "guess", "", installed.secret[:-1], installed.secret + "x")
    forged = [
        (_body(installed, "FORGED_ANNOTATION", 5, 5, f"2026-03-02T00:00:00.{n:06}Z"), secrets[n % len(secrets)])
        for n in range(FORGED)
    ]
    return genuine, forged


def _body(installed: Installed, action: str, annotation_id: int, task_id: int, at: str) -> dict[str, Any]:
    region = {"type": "brushlabels", "value": {"rle": list(range(256)), "brushlabels": ["gland"]}}
    annotation = {"id": annotation_id, "task": task_id, "updated_at": at, "result": [region]}
    return {
        "action": action,
        "project": {"id": installed.ls_project_id},
        "task": {"id": task_id},
        "annotation": annotation,
    }


def _deletion(installed: Installed, ids: Sequence[int]) -> dict[str, Any]:
    annotations = [{"id": number} for number in ids]
    return {
        "action": "ANNOTATIONS_DELETED",
        "project": {"id": installed.ls_project_id},
        "annotations": annotations,
    }


def _change(installed: Installed, labels: Sequence[int]) -> None:
    """What people do meanwhile: three changes, three deletions, two more labels."""
    for number in labels[:3]:
        result = [*class_map_to_result(disc(x=44, y=20), CLASSES), scope_item("whole tile")]
        person.update_annotation(installed.client, number, result=result)
    for number in labels[3:6]:
        person.delete_annotation(installed.client, number)
    for task in installed.tasks()[LABELLED : LABELLED + 2]:
        installed.label(task, x=50)


def _send(installed: Installed, sent: Sequence[tuple[dict[str, Any], str | None]]) -> list[tuple[int, str | None]]:
    """Every delivery by one of some senders, each on a connection of its own that stays open."""

    def sender(share: Sequence[tuple[dict[str, Any], str | None]]) -> list[tuple[int, str | None]]:
        connection = http.client.HTTPConnection("127.0.0.1", installed.port, timeout=120)
        answers = []
        for body, secret in share:
            headers = {"content-type": "application/json"} | ({} if secret is None else {SECRET_HEADER: secret})
            connection.request("POST", installed.path, json.dumps(body), headers)
            response = connection.getresponse()
            response.read()
            answers.append((response.status, secret))
        connection.close()
        return answers

    with ThreadPoolExecutor(SENDERS) as pool:
        shares = [sent[n::SENDERS] for n in range(SENDERS)]
        return [answer for answers in pool.map(sender, shares) for answer in answers]


@contextmanager
def _watched(process: psutil.Process) -> Iterator[list[int]]:
    """The resident memory of a process, five times a second, until the end of the block."""
    seen, over = [process.memory_info().rss], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        over.set()
        watcher.join()
        seen.append(process.memory_info().rss)


def test_what_people_did_while_the_api_was_away_is_found_by_the_poll(installed: Installed, log: FaultLog) -> None:
    before = set(installed.inbox_keys())
    free = [task for task in installed.tasks() if task not in {task for task, _ in installed.store().values()}]
    assert len(free) >= 4
    new = [installed.label(task, x=12) for task in free[:4]]
    (changed, removed) = sorted(set(installed.store()))[:2]
    person.update_annotation(installed.client, changed, result=[scope_item("whole tile")])
    person.delete_annotation(installed.client, removed)
    assert set(installed.inbox_keys()) == before  # nobody told us
    with installed.made.database.transaction() as session:
        projects.get(session, installed.made.project_id).ls_compared_at = None  # deletions are compared now and then
    log.struck()
    installed.wake()
    installed.await_truth()
    seen = "4 labels, a change and a deletion of which no webhook told were found by one look"
    log.recovered(row=11, fault="the API is down while people label", seen=seen)
    assert set(new) | {changed} <= set(installed.store())
    assert removed not in installed.store()
    assert set(installed.inbox_keys()) == before
    check_invariants(installed.made.database, installed.made.blobs, client=installed.client)
