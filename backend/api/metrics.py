"""`/metrics` for Prometheus: this process's requests, and what database and broker say of the whole installation.

Every API process shows its own requests and the same shared figures. A project's key is the only label whose values
grow. Read by programs on this machine, or with the token of the setting `metrics_token` from anywhere, under a name by
which this installation is known (the setting `hosts`).
"""

from __future__ import annotations

import hmac
import importlib.metadata
import ipaddress
import logging
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.exceptions import HTTPException

from backend.actions.measure import ProjectFigures, measure
from backend.api.parts import Parts, parts_of
from backend.clock import utc_now
from backend.signs import Broker, look_at_broker
from mpamatch.errors import Unavailable

LOG = logging.getLogger("mpamatch.metrics")
# Several scrapers, or an eager one, cost the database no more than one.
KEPT_S = 10.0
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PROJECT = ["project"]

router = APIRouter(tags=["metrics"])


@router.get("/metrics", include_in_schema=False)
def metrics(request: Request) -> Response:
    """The text format of Prometheus. 403 from elsewhere without a token set, 401 for a wrong one."""
    _check_access(request, parts_of(request))
    found: Metrics = request.app.state.metrics
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)


class Metrics:
    """The registry of one application; nothing is global."""

    def __init__(self, parts: Parts) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._requests = Counter(
            "mpamatch_http_requests",
            "Requests answered by this process",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "mpamatch_http_request_seconds",
            "How long this process took to answer",
            ["route"],
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        self.registry.register(Standing(parts))

    def note(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)


class Standing(Collector):
    """How the installation stands, read when asked and kept for a few seconds."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._lock = threading.Lock()
        self._kept: tuple[float, list[Metric]] | None = None

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if self._kept is None or time.monotonic() - self._kept[0] > KEPT_S:
                began = time.monotonic()
                families = list(self._read())
                families.append(_gauge("metrics_read_seconds", "How long reading these figures took", _since(began)))
                self._kept = (time.monotonic(), families)
            return self._kept[1]

    def _read(self) -> Iterator[Metric]:
        now = utc_now()
        settings, database = self._parts.settings, self._parts.database
        version = GaugeMetricFamily("mpamatch_build", "The version that runs", labels=["version"])
        version.add_metric([importlib.metadata.version("mpamatch")], 1)
        yield version
        projects, broker = self._projects(), self._broker()
        yield _gauge("database_up", "Whether the database answers", float(projects is not None))
        yield _gauge("broker_up", "Whether the broker answers", float(broker is not None))
        yield from _pool(database.engine.pool)
        blobs = {} if settings.blobs_in_bucket else {"blobs": settings.blobs_folder}
        yield from _disk({"state": settings.state, **blobs})
        if projects is not None:
            yield from _of_projects(projects, now)
        if broker is not None:
            yield from _of_broker(broker, {p.project_id: p for p in projects or ()}, now)

    def _projects(self) -> tuple[ProjectFigures, ...] | None:
        try:
            with self._parts.database.transaction() as session:
                return measure(session)
        except Unavailable:
            return None

    def _broker(self) -> Broker | None:
        try:
            return look_at_broker(self._parts.settings.require_broker_url())
        except Unavailable:
            return None


def _since(began: float) -> float:
    return time.monotonic() - began


def _gauge(name: str, help_text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"mpamatch_{name}", help_text, value=value)


def _pool(pool: Any) -> Iterator[Metric]:
    yield _gauge("database_pool_in_use", "Connections of this process in use", float(pool.checkedout()))
    yield _gauge("database_pool_size", "Connections that this process keeps", float(pool.size()))


def _disk(folders: dict[str, Path]) -> Iterator[Metric]:
    free = GaugeMetricFamily("mpamatch_disk_free_bytes", "Free space where the folder lies", labels=["folder"])
    size = GaugeMetricFamily("mpamatch_disk_size_bytes", "Space where the folder lies", labels=["folder"])
    for name, folder in folders.items():
        try:
            usage = shutil.disk_usage(next(place for place in (folder, *folder.parents) if place.exists()))
        except OSError:
            continue
        free.add_metric([name], usage.free)
        size.add_metric([name], usage.total)
    yield from (free, size)


class _Table:
    """Families by name with one row a project."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}

    def gauge(self, name: str, help_text: str, key: str, value: float | None, **labels: str) -> None:
        """None leaves the row out: there is no such thing now."""
        family = self._family(GaugeMetricFamily, name, help_text, labels)
        if value is not None:
            family.add_metric([key, *labels.values()], value)  # type: ignore[attr-defined]

    def counter(self, name: str, help_text: str, key: str, value: float) -> None:
        family = self._family(CounterMetricFamily, name, help_text, {})
        family.add_metric([key], value)  # type: ignore[attr-defined]

    def states(self, name: str, help_text: str, key: str, counts: Any, states: Iterable[str]) -> None:
        """Every state has a row, so that an alert on one sees the 0 before it."""
        for state in states:
            self.gauge(name, help_text, key, counts.get(state, 0), state=state)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def _family(self, kind: Any, name: str, help_text: str, labels: dict[str, str]) -> Metric:
        if name not in self._families:
            self._families[name] = kind(f"mpamatch_{name}", help_text, labels=[*_PROJECT, *labels])
        return self._families[name]


def _of_projects(projects: Iterable[ProjectFigures], now: datetime) -> Iterable[Metric]:
    table = _Table()
    for p in projects:
        key = p.key
        table.counter("inbox_received", "Webhooks kept", key, p.inbox_received)
        table.counter("inbox_applied", "Webhooks applied", key, p.inbox_received - p.inbox_waiting)
        table.gauge("inbox_backlog", "Webhooks that wait", key, p.inbox_waiting)
        table.gauge("inbox_oldest_seconds", "Age of the oldest that waits", key, _age(p.inbox_oldest_at, now) or 0)
        table.gauge("inbox_problems", "Webhooks that could not be applied", key, p.inbox_problems)
        table.states("queue_entries", "Entries of the live queue", key, p.queue, ("open", "leased", "done", "skipped"))
        table.gauge("head_tasks", "Tasks that wait in Label Studio", key, p.tasks.get("live", 0))
        table.gauge("head_size", "Tasks that should wait there", key, p.head_size)
        table.counter("predictions_made", "Predictions of all models", key, p.predictions)
        table.gauge("tiles_predicted", "Tiles that the champion has seen", key, p.predicted)
        table.gauge("predictions_due", "Tiles that the champion has not seen", key, p.due)
        table.states("images", "Registered images", key, p.images, ("registered", "ready", "quarantined"))
        states = ("present", "skipped", "quarantined", "deleted", "draft")
        table.states("annotations", "Annotations", key, p.annotations, states)
        table.states("runs", "Runs", key, p.runs, ("queued", "training", "judging", "done", "failed", "cancelled"))
        table.gauge(
            "run_open_seconds", "Age of the open run", key, _age(p.open_run.created_at if p.open_run else None, now)
        )
        beat = p.open_run.heartbeat_at if p.open_run and p.open_run.state == "training" else None
        table.gauge("run_progress_age_seconds", "Since the training's last sign", key, _age(beat, now))
        table.gauge("champion_age_seconds", "Since the champion serves", key, _age(p.champion_since, now))
        table.gauge("audit_dice", "The champion's mean Dice at its verdict, 0..1", key, p.audit_dice)
    return table


def _of_broker(broker: Broker, projects: dict[int, ProjectFigures], now: datetime) -> Iterator[Metric]:
    workers = GaugeMetricFamily("mpamatch_workers", "Workers alive, by queue; beat wakes the sweep", labels=["queue"])
    for name, count in broker.serving().items():
        workers.add_metric([name], count)
    waiting = GaugeMetricFamily("mpamatch_broker_messages", "Wake-ups that wait, by queue", labels=["queue"])
    for name, count in broker.waiting.items():
        waiting.add_metric([name], count)
    yield from (workers, waiting)
    yield _gauge("broker_memory_bytes", "Memory that the broker uses", float(broker.memory_bytes))
    table = _Table()
    for project_id, p in projects.items():
        if p.tied:
            since = _age(broker.synced_at.get(project_id), now)
            table.gauge("label_studio_synced_seconds", "Since labels and head were last in step", p.key, since)
            failures = broker.failures.get(project_id, 0)
            table.counter("label_studio_errors", "Looks at labels or head that failed", p.key, failures)
    yield from table


def _age(then: datetime | None, now: datetime) -> float | None:
    return None if then is None else max(0.0, (now - then).total_seconds())


def _check_access(request: Request, parts: Parts) -> None:
    """A token where one is set; else only programs on this machine, asked by its own name and through no proxy."""
    token = parts.settings.metrics_token
    if token is not None:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), token.get_secret_value().encode())
        if scheme.lower() != "bearer" or not same:
            raise HTTPException(401, "a token is needed", headers={"WWW-Authenticate": "Bearer"})
        return
    forwarded = any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip"))
    if forwarded or not _is_loopback(request.client.host if request.client else "") or not _asked_locally(request):
        raise HTTPException(403, "read on this machine only; set MPAMATCH_METRICS_TOKEN to read it from elsewhere")


def _asked_locally(request: Request) -> bool:
    """Whether the name in the request is this machine's: a web page under another name must not read it."""
    try:
        name = urlsplit(f"//{request.headers.get('host', '')}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
