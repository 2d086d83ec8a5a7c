"""What a real Redis and real workers do with the product's options: when a message is held, given again, shared.

A message is only a wake-up, so none of this loses or doubles work; but one that is given again too early, or hoarded by
a busy worker, costs computing time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from backend.wakeups import VISIBILITY_TIMEOUT_S, Wakeups

pytestmark = [pytest.mark.database, pytest.mark.processes]
HOUR_S = 3600


class Workers:
    """Processes on one broker, and what the broker holds."""

    def __init__(self, url: str, folder: Path) -> None:
        self.broker = redis.Redis.from_url(url.replace("redis+socket://", "unix://").split("?")[0])
        self.folder = folder
        self.wakeups = Wakeups(url)
        self.environment = {**os.environ, "MPAMATCH_STATE": str(folder), "MPAMATCH_BROKER_URL": url}
        self.children: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, queue: str = "train") -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.workers.held_worker", name, queue],
                stdout=log,
                stderr=log,
                env=self.environment,
            )
        self.children.append(child)
        return child

    def began(self) -> list[str]:
        return [name.decode() for name in self.broker.lrange("began", 0, -1)]  # type: ignore[union-attr]

    def held(self) -> int:
        """Messages that some worker holds and has not acknowledged."""
        return int(self.broker.hlen("unacked"))  # type: ignore[arg-type]

    def waiting(self, queue: str = "train") -> int:
        return int(self.broker.llen(queue))  # type: ignore[arg-type]

    def age(self, seconds: float) -> None:
        """Make every message that is held that much older."""
        for tag, since in self.broker.zrange("unacked_index", 0, -1, withscores=True):  # type: ignore[union-attr]
            self.broker.zadd("unacked_index", {tag: since - seconds})

    def wait(self, what: str, look: Callable[[], object], limit_s: float = 60) -> None:
        deadline = time.monotonic() + limit_s
        while not look():
            said = "\n".join(log.read_text(errors="replace")[-2000:] for log in self.folder.glob("*.log"))
            assert time.monotonic() < deadline, f"{what} did not come\n{said}"
            time.sleep(0.05)


@pytest.fixture
def workers(redis_url: str, tmp_path: Path) -> Iterator[Workers]:
    made = Workers(redis_url, tmp_path)
    yield made
    for child in made.children:
        if child.poll() is None:
            child.kill()
        child.wait()
    made.broker.close()


def test_a_busy_worker_holds_one_message_and_leaves_the_others_to_the_idle(workers: Workers) -> None:
    workers.start("first")
    for _ in range(5):
        workers.wakeups.train()
    workers.wait("the first job", lambda: workers.began() == ["first"])
    assert (workers.held(), workers.waiting()) == (1, 4), "acknowledged late, none fetched ahead"
    workers.start("second")
    workers.wait("work for the second", lambda: "second" in workers.began())
    assert (workers.held(), workers.waiting()) == (2, 3)
    workers.broker.set("let-go", 1)
    workers.wait("the end", lambda: len(workers.began()) == 5 and workers.held() == 0)
    assert workers.waiting() == 0


def test_a_killed_worker_s_message_is_kept_for_twelve_hours_and_then_given_again(workers: Workers) -> None:
    killed = workers.start("killed")
    workers.wakeups.train()
    workers.wait("its job", lambda: workers.began() == ["killed"])
    killed.kill()
    killed.wait()
    assert workers.held() == 1, "a message that nobody acknowledged is still there"
    # A training of hours must not be given to a second worker while the first is at it.
    workers.age(VISIBILITY_TIMEOUT_S - HOUR_S)
    workers.broker.set("let-go", 1)
    other = workers.start("other")
    workers.wakeups.train()
    workers.wait("a message of now", lambda: workers.began() == ["killed", "other"])
    other.send_signal(signal.SIGTERM)
    other.wait(30)
    assert (workers.held(), workers.began()) == (1, ["killed", "other"])
    workers.age(HOUR_S + 60)
    workers.start("third")
    workers.wait("the old message", lambda: workers.began() == ["killed", "other", "third"])
    workers.wait("its end", lambda: workers.held() == 0)


def test_a_worker_that_is_told_to_stop_ends_its_job_and_then_acknowledges(workers: Workers) -> None:
    told = workers.start("told")
    for _ in range(2):
        workers.wakeups.train()
    workers.wait("its job", lambda: workers.began() == ["told"])
    told.send_signal(signal.SIGTERM)
    assert told.wait(30) == 0
    ended = [name.decode() for name in workers.broker.lrange("ended", 0, -1)]  # type: ignore[union-attr]
    assert ended == ["told"], "the job saw the wish and returned; it was not cut off"
    assert (workers.held(), workers.waiting()) == (0, 1), "what it had not begun is left to others"
