"""Rows 5, 6 and 7: the broker and the database go away and come back; the disk fills up and has space again."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from backend.servers import EmbeddedRedis
from backend.store import projects
from mpamatch.errors import Unavailable
from tests.reliability.fault_log import FaultLog
from tests.reliability.ring import Ring

pytestmark = [pytest.mark.processes, pytest.mark.labelstudio, pytest.mark.torch, pytest.mark.timeout(900)]


def _flush(ring: Ring) -> None:
    import redis

    with redis.Redis.from_url(EmbeddedRedis(ring.stack.state).plain_url) as client:
        client.flushall()


def test_work_is_found_again_in_the_rows_when_the_broker_was_emptied_while_nothing_ran(
    ring: Ring, log: FaultLog
) -> None:
    _flush(ring)
    log.struck()
    labels = [ring.label(t) for t in ring.waiting()[:2]]
    ring.until(lambda: ring.accepted(labels) == 2, 60)
    ring.recover(60)
    log.recovered(row=5, fault="broker flushed, idle", seen="labels given afterwards were taken in, the head followed")


def test_work_is_found_again_in_the_rows_when_the_broker_dies_and_is_emptied_under_load(
    ring: Ring, log: FaultLog
) -> None:
    number = ring.start_run()
    waiting = ring.waiting()[:4]
    labels = [ring.label(t) for t in waiting[:2]]
    ring.kill("redis")
    labels += [ring.label(t) for t in waiting[2:]]  # their wake-ups find nobody
    ring.until(lambda: EmbeddedRedis(ring.stack.state).ready(), 60)
    _flush(ring)
    log.struck()
    ring.until(lambda: ring.accepted(labels) == 4, 90)
    assert ring.ended(number).state == "done"
    ring.recover(90)
    seen = "4 labels given meanwhile are in, each once; the run went on and ended"
    log.recovered(row=5, fault="kill -9 broker in a run with labels coming in, then flushed", seen=seen)


def test_a_broker_that_hangs_holds_up_nothing_but_wake_ups(ring: Ring, log: FaultLog) -> None:
    redis = ring.stack.part("redis")
    redis.suspend()
    try:
        labels = [ring.label(t) for t in ring.waiting()[:2]]
        time.sleep(10)
    finally:
        redis.resume()
    log.struck()
    ring.until(lambda: ring.accepted(labels) == 2, 90)
    ring.recover(90)
    log.recovered(row=5, fault="broker hangs for 10 s", seen="both labels given meanwhile are in")


def test_no_write_is_lost_when_the_database_is_killed_under_writes(ring: Ring, log: FaultLog) -> None:
    waiting = ring.waiting()[:6]
    answers: list[int] = []
    over = threading.Event()

    def ask() -> None:
        with ring.api() as api:
            while not over.is_set():
                try:
                    answers.append(api.get("/versions").status_code)
                except httpx.TransportError:
                    answers.append(0)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        labels = [ring.label(t) for t in waiting[:3]]
        ring.kill("postgres")
        log.struck()
        labels += [ring.label(t) for t in waiting[3:]]  # Label Studio takes them; our webhook may find no database
        ring.until(lambda: ring.accepted(labels) == 6, 120)
    finally:
        over.set()
        asking.join()
    ring.recover(90)
    assert set(answers) <= {200, 503}, "the API answered, or said that it cannot now"
    seen = f"all 6 labels are in, each once; of {len(answers)} requests {answers.count(503)} were told to come again"
    log.recovered(row=6, fault="kill -9 PostgreSQL while labels come in", seen=seen)


def test_a_locked_table_is_waited_for_a_while_and_then_said(ring: Ring, log: FaultLog) -> None:
    task = ring.waiting()[0]
    body = {
        "action": "ANNOTATION_CREATED",
        "project": {"id": ring.stack.ls_project_id},
        "task": {"id": task},
        "annotation": {"id": 7_000_001, "task": task, "updated_at": "2026-03-02T10:00:00Z", "result": []},
    }
    with ring.api() as api:
        with ring.database.transaction() as session:
            session.execute(text("LOCK TABLE inbox IN ACCESS EXCLUSIVE MODE"))
            began = time.monotonic()
            refused = api.post("/webhook", json=body)
            waited_s = time.monotonic() - began
        log.struck()
        assert refused.status_code == 503
        assert waited_s < 25
        assert api.post("/webhook", json=body).json() == {"status": "kept"}
    ring.until(lambda: ring.inbox(waiting_only=True) == 0, 60, 0.3)
    ring.recover(60)
    seen = f"503 after {waited_s:.0f} s; sent again it was stored, once"
    log.recovered(row=6, fault="a table locked for longer than anybody waits", seen=seen)


@pytest.fixture
def full(ring: Ring, small_disk: Path | None) -> Path:
    """The file that fills the disk."""
    if small_disk is None:
        pytest.skip("this user may not mount a small disk (mount -t tmpfs)")
    return small_disk / "filler"


@contextmanager
def _full_disk(path: Path) -> Iterator[None]:
    """No byte is free inside: what the product gives back is taken again at once."""
    over = threading.Event()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT)

    def take() -> None:
        for size in (1 << 20, 1 << 12, 1):
            with suppress(OSError):
                while os.write(handle, bytes(size)) == size and not over.is_set():
                    pass

    def keep() -> None:
        while not over.wait(0.05):
            take()

    take()
    keeper = threading.Thread(target=keep)
    keeper.start()
    try:
        yield
    finally:
        over.set()
        keeper.join()
        os.close(handle)
        path.unlink()


def _refused(ring: Ring) -> bool:
    """Whether a blob is refused; a checkpoint that could not be written gives its room back for a moment."""
    for _ in range(100):
        try:
            ring.stack.blobs.put(os.urandom(1 << 20))
        except Unavailable as error:
            return "could not be written" in str(error)
        time.sleep(0.1)
    return False


def test_a_full_disk_pauses_the_work_and_frees_itself_when_there_is_space_again(
    ring: Ring, log: FaultLog, full: Path
) -> None:
    """Everything lies on that disk: the WAL, the broker's file, Label Studio's SQLite, blobs, checkpoints and logs."""
    version = ring.champion().version
    number = ring.start_run()
    ring.until(lambda: ring.step(number) >= 2, 120)
    with _full_disk(full):
        deadline = time.monotonic() + 25
        assert _refused(ring), "a blob that finds no room is refused in one line"
        time.sleep(max(0.0, deadline - time.monotonic()))
        said = ring.stack.last_words()
    log.struck()
    run = ring.ended(number)
    assert run.state == "done", f"{run.problem}\n{said}"
    labels = [ring.label(t) for t in ring.until(ring.waiting, 60)[:2]]
    ring.until(lambda: ring.accepted(labels) == 2, 90)
    ring.recover(120)
    with ring.database.transaction() as session:
        assert projects.choose(session, None).champion_id is not None
    seen = f"the run waited and ended as done (attempt {run.attempt}); {version} served; no part was given up"
    log.recovered(row=7, fault="disk full for 25 s in a run, with everything on it", seen=seen)
