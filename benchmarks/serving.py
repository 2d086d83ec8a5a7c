"""The API as a real process on the embedded PostgreSQL and Redis: start, memory, webhooks, stored predictions.

Webhooks arrive at a fixed rate whether or not earlier ones were answered, each on a connection of its own as Label
Studio makes them, and count from the moment at which they were due. The database flushes every commit to the disk.
Nothing leaves the loopback; servers and files are gone afterwards.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

# Run as a file: the repository's root takes the place of this folder, where `queue` is not the standard library's.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import psutil
from sqlalchemy import func, select

from backend.store.sessions import Database
from backend.store.tables import Inbox
from benchmarks._installation import Api, running_api, running_servers
from benchmarks._stored_project import StoredProject, store_project
from benchmarks.report import Figure, run

MB = 1_000_000


@dataclass(frozen=True)
class Load:
    """How much is asked of the API: starts, then requests of each kind, ``per_s`` of them a second.

    Before and after the webhooks nothing is asked for ``pause_s``, to see what else keeps the machine busy.
    """

    starts: int = 3
    webhooks: int = 400
    predictions: int = 200
    healths: int = 100
    per_s: float = 20.0
    pause_s: float = 3.0


def measure(load: Load = Load()) -> dict[str, Figure]:
    """Every figure, in one run. Raises RuntimeError when a webhook was answered but is not in the database."""
    with ExitStack() as stack:
        settings = stack.enter_context(running_servers())
        database = Database(settings.require_database_url())
        stack.callback(database.close)
        project = store_project(settings, database)
        ready_s = []
        for _ in range(load.starts - 1):
            with running_api(settings) as api:
                ready_s.append(api.ready_s)
        api = stack.enter_context(running_api(settings))
        ready_s.append(api.ready_s)
        return {
            "api_ready_s": Figure(statistics.median(ready_s), "s", 3.0, f"process start to /health, {len(ready_s)} x"),
            **_requests(api, project, database, load),
            "api_rss_mb": Figure(psutil.Process(api.pid).memory_info().rss / MB, "MB", 200.0, "after these requests"),
            "api_torch_mapped": Figure(_mapped(api.pid, "libtorch"), "files", 0.0, "after these requests"),
        }


def _requests(api: Api, project: StoredProject, database: Database, load: Load) -> dict[str, Figure]:
    health = _paced([lambda: api.ask("GET", "/health")] * load.healths, load.per_s)
    bodies = [project.webhook(number) for number in range(load.webhooks)]
    before = _kept(database)
    others = [_busy_cores(load.pause_s)]
    webhook = _paced([_webhook(api, project, body) for body in bodies], load.per_s)
    others.append(_busy_cores(load.pause_s))
    if _kept(database) - before != load.webhooks:
        raise RuntimeError(f"{load.webhooks} webhooks were answered, {_kept(database) - before} are in the database")
    answer = b""
    predict = []
    for _ in range(load.predictions):
        began = time.perf_counter()
        answer = api.ask("POST", f"{project.path}/predict", project.predict_body, project.basic)
        predict.append((time.perf_counter() - began) * 1000)
    if not json.loads(answer)["results"][0]["result"]:
        raise RuntimeError("the stored prediction was answered empty")
    rate = f"{load.per_s:g} a second"
    empty = f"an empty GET /health, p95 {_percentile(health, 95):.1f} ms"
    size = f"bodies of {statistics.mean(map(len, bodies)) / 1000:.0f} kB, {load.webhooks} at {rate}, fsync on"
    shown = f"answers of {len(answer) / 1000:.0f} kB, {load.predictions} one after the other"
    return {
        "others_busy_cores": Figure(statistics.mean(others), "cores", None, "other work, just before and after"),
        "health_p95_ms": Figure(_percentile(health, 95), "ms", None, f"{load.healths} at {rate}"),
        "webhook_p50_ms": Figure(_percentile(webhook, 50), "ms", None, size),
        "webhook_p95_ms": Figure(_percentile(webhook, 95), "ms", 100.0, f"{size}; {empty}"),
        "predict_p50_ms": Figure(_percentile(predict, 50), "ms", None, shown),
        "predict_p95_ms": Figure(_percentile(predict, 95), "ms", 50.0, f"{shown}; {empty}"),
    }


def _webhook(api: Api, project: StoredProject, body: bytes) -> Callable[[], bytes]:
    return lambda: api.ask("POST", f"{project.path}/webhook", body, project.secret)


def _paced(calls: Sequence[Callable[[], object]], per_s: float) -> list[float]:
    """Milliseconds of each call from the moment at which it was due; late answers do not hold back later calls."""

    def timed(call: Callable[[], object], due: float) -> float:
        call()
        return (time.perf_counter() - due) * 1000

    with ThreadPoolExecutor(max_workers=16) as pool:
        start = time.perf_counter() + 0.1
        waiting = []
        for number, call in enumerate(calls):
            due = start + number / per_s
            time.sleep(max(0.0, due - time.perf_counter()))
            waiting.append(pool.submit(timed, call, due))
        return [one.result() for one in waiting]


def _percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that ``percent`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-percent * len(ordered) // 100) - 1)]


def _busy_cores(pause_s: float) -> float:
    """How many cores are busy while this program waits."""
    return float(psutil.cpu_percent(interval=pause_s)) / 100 * (psutil.cpu_count() or 1)


def _kept(database: Database) -> int:
    with database.transaction() as session:
        return session.scalar(select(func.count()).select_from(Inbox)) or 0


def _mapped(pid: int, name: str) -> int:
    """How many files of that name are mapped into a process."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    return len({line.split()[-1] for line in maps if name in line})


if __name__ == "__main__":
    run(measure, __doc__)
