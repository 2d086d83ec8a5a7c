"""What workers tell of themselves through a real broker: it comes, ends by itself, and never fails who tells it."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
import redis

from backend.clock import utc_now
from backend.signs import ALIVE, BEAT, EXPIRES_S, Signs, look_at_broker
from backend.wakeups import Wakeups
from mpamatch.errors import Unavailable
from tests.servers import EmbeddedRedis

pytestmark = pytest.mark.database
AWAY = "redis://127.0.0.1:9/0"
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def soon(look: object, limit_s: float = 20.0) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if look():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def test_a_worker_that_lives_is_seen_and_one_that_ended_is_not(redis_url: str) -> None:
    ended = Signs(redis_url).keep_alive("both", ["io", "predict"], pid=7, now=lambda: NOW)
    assert soon(lambda: look_at_broker(redis_url).alive)
    (seen,) = look_at_broker(redis_url).alive
    assert (seen.name, seen.pid, seen.queues, seen.since) == ("both", 7, ("io", "predict"), NOW)
    assert look_at_broker(redis_url).serving() == {BEAT: 0, "io": 1, "predict": 1, "train": 0}
    ended.set()
    assert soon(lambda: not look_at_broker(redis_url).alive)


def test_a_sign_of_life_ends_by_itself(redis_url: str, redis_server: EmbeddedRedis) -> None:
    ended = Signs(redis_url).keep_alive("killed", ["train"], pid=7, now=utc_now)
    assert soon(lambda: look_at_broker(redis_url).alive)
    with redis.Redis.from_url(redis_server.plain_url) as client:
        (key,) = client.keys(f"{ALIVE}*")
        assert 0 < client.ttl(key) <= EXPIRES_S
    ended.set()


def test_steps_with_label_studio_and_failures_are_told_by_project(redis_url: str) -> None:
    signs = Signs(redis_url)
    signs.synced(3, now=NOW)
    signs.label_studio_failed(4)
    signs.label_studio_failed(4)
    seen = look_at_broker(redis_url)
    assert (seen.synced_at, seen.failures) == ({3: NOW}, {4: 2})


def test_messages_that_wait_are_counted_by_queue(redis_url: str) -> None:
    wakeups = Wakeups(redis_url)
    wakeups.train()
    wakeups.train()
    wakeups.predict()
    assert look_at_broker(redis_url).waiting == {"io": 0, "predict": 1, "train": 2}


def test_a_broker_that_is_away_is_unavailable_for_who_looks_and_nothing_for_who_tells() -> None:
    with pytest.raises(Unavailable, match="broker: does not answer"):
        look_at_broker(AWAY)
    Signs(AWAY).synced(1, now=NOW)
    Signs(AWAY).label_studio_failed(1)
    Signs(None).synced(1, now=NOW)
