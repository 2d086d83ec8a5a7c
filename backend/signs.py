"""What the workers tell of themselves through the broker: that they live, when a project was last in step with Label
Studio, and how often Label Studio failed them.

None of this is state: it expires or may be lost with the broker, and nothing is decided by it. It is there so that
`doctor`, `status` and `/metrics` can look at workers on other machines too, also while one is busy for an hour with a
training (Celery's own answers come from the thread that trains).
"""

from __future__ import annotations

import json
import logging
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from backend.wakeups import QUEUES, broker_client
from mpamatch.errors import Unavailable

LOG = logging.getLogger("mpamatch.signs")
ALIVE = "mpamatch:alive:"
SYNCED = "mpamatch:synced"
FAILED = "mpamatch:label-studio-errors"
EVERY_S = 10.0
# Three missed signs, and a worker counts as gone.
EXPIRES_S = 35
BEAT = "beat"


@dataclass(frozen=True)
class Alive:
    """A worker that lives. ``queues``: those it serves; ``beat`` for the one that wakes the sweep."""

    name: str
    host: str
    pid: int
    queues: tuple[str, ...]
    since: datetime


@dataclass(frozen=True)
class Broker:
    """The broker at one moment. ``policy``: what it does when its memory is full; ``waiting``: messages by queue."""

    version: str
    policy: str
    memory_bytes: int
    memory_limit_bytes: int
    waiting: Mapping[str, int]
    alive: tuple[Alive, ...]
    synced_at: Mapping[int, datetime]
    failures: Mapping[int, int]

    def serving(self) -> dict[str, int]:
        """How many workers serve each queue, and how many wake the sweep."""
        names = sorted({*QUEUES.values(), BEAT})
        return {name: sum(name in one.queues for one in self.alive) for name in names}


def look_at_broker(url: str, *, timeout_s: float = 3.0) -> Broker:
    """Raises Unavailable."""
    with broker_client(url, timeout_s=timeout_s) as client:
        facts = client.info()
        signs = [client.get(key) for key in client.scan_iter(f"{ALIVE}*", count=1000)]
        return Broker(
            version=str(facts.get("redis_version", "unknown")),
            policy=str(facts.get("maxmemory_policy", "unknown")),
            memory_bytes=int(facts.get("used_memory", 0)),
            memory_limit_bytes=int(facts.get("maxmemory", 0)),
            waiting={name: int(client.llen(name)) for name in sorted(set(QUEUES.values()))},
            alive=tuple(sorted((_alive(sign) for sign in signs if sign), key=lambda one: (one.name, one.host))),
            synced_at={int(k): datetime.fromisoformat(_text(v)) for k, v in client.hgetall(SYNCED).items()},
            failures={int(k): int(v) for k, v in client.hgetall(FAILED).items()},
        )


class Signs:
    """A worker's side. Never fails its caller: a lost sign costs a figure. ``url`` None tells nobody anything."""

    def __init__(self, url: str | None) -> None:
        self._url = url

    def synced(self, project_id: int, *, now: datetime) -> None:
        """The project's labels were read from Label Studio and its head was compared."""
        self._tell(lambda client: client.hset(SYNCED, str(project_id), now.isoformat()))

    def label_studio_failed(self, project_id: int) -> None:
        """Label Studio did not answer, or not as it should."""
        self._tell(lambda client: client.hincrby(FAILED, str(project_id), 1))

    def keep_alive(self, name: str, queues: Sequence[str], *, pid: int, now: Callable[[], datetime]) -> threading.Event:
        """Tell every few seconds that this worker lives, from a thread of its own, until the event is set."""
        host, ended = socket.gethostname(), threading.Event()
        me = Alive(name, host, pid, tuple(queues), now())
        word = json.dumps({**asdict(me), "since": me.since.isoformat()})

        def body() -> None:
            while True:
                self._tell(lambda client: client.set(f"{ALIVE}{host}:{name}:{pid}", word, ex=EXPIRES_S))
                if ended.wait(EVERY_S):
                    self._tell(lambda client: client.delete(f"{ALIVE}{host}:{name}:{pid}"))
                    return

        threading.Thread(target=body, name="signs of life", daemon=True).start()
        return ended

    def _tell(self, say: Callable[..., object]) -> None:
        if self._url is None:
            return
        try:
            with broker_client(self._url, timeout_s=3.0) as client:
                say(client)
        except Unavailable as error:
            LOG.debug("no sign given: %s", error)


def _alive(sign: bytes) -> Alive:
    told = json.loads(sign)
    since = datetime.fromisoformat(told.pop("since"))
    return Alive(**{**told, "queues": tuple(told["queues"])}, since=since)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
