"""How an installation's projects, workers and disk stand, for `mpamatch status`: read if the servers answer."""

from __future__ import annotations

import shutil
from datetime import datetime
from typing import Any

from backend.actions.measure import ProjectFigures, measure
from backend.settings import Settings
from backend.signs import Broker, look_at_broker
from backend.store.sessions import Database
from mpamatch.errors import Unavailable


def read_standing(settings: Settings, *, now: datetime) -> dict[str, Any]:
    """`projects`, `serving` and `wakeups` (None where their server does not answer), and `disk`."""
    broker, figures = _broker(settings), _figures(settings)
    return {
        "projects": None if figures is None else [_project(p, broker, now) for p in figures],
        "serving": None if broker is None else broker.serving(),
        "wakeups": None if broker is None else dict(broker.waiting),
        "disk": _disk(settings),
    }


def _figures(settings: Settings) -> tuple[ProjectFigures, ...] | None:
    if settings.database_url is None:
        return None
    database = Database(settings.database_url)
    try:
        with database.transaction() as session:
            return measure(session)
    except Unavailable:
        return None
    finally:
        database.close()


def _broker(settings: Settings) -> Broker | None:
    try:
        return None if settings.broker_url is None else look_at_broker(settings.broker_url)
    except Unavailable:
        return None


def _project(p: ProjectFigures, broker: Broker | None, now: datetime) -> dict[str, Any]:
    run = p.open_run
    return {
        "project": p.key,
        "champion": p.champion,
        "audit_dice": p.audit_dice,
        "queue": p.queue.get("open", 0) + p.queue.get("leased", 0),
        "head": p.tasks.get("live", 0),
        "predictions_due": p.due,
        "labels": p.annotations.get("present", 0),
        "inbox": {"waiting": p.inbox_waiting, "oldest_s": _age(p.inbox_oldest_at, now), "problems": p.inbox_problems},
        "set_aside": {
            "images": p.images.get("quarantined", 0),
            "annotations": p.annotations.get("quarantined", 0),
        },
        "open_run": None
        if run is None
        else {
            "run": run.number,
            "state": run.state,
            "step": run.step,
            "steps": run.steps,
            "silent_s": _age(run.heartbeat_at, now) if run.state == "training" else None,
        },
        "label_studio": {
            "tied": p.tied,
            "synced_s": None if broker is None else _age(broker.synced_at.get(p.project_id), now),
            "errors": None if broker is None else broker.failures.get(p.project_id, 0),
        },
    }


def _disk(settings: Settings) -> dict[str, Any]:
    usage = shutil.disk_usage(next(place for place in (settings.state, *settings.state.parents) if place.exists()))
    free_gb = usage.free / 1e9
    return {"free_gb": round(free_gb, 1), "low": free_gb < settings.disk_low_gb}


def _age(then: datetime | None, now: datetime) -> float | None:
    return None if then is None else round(max(0.0, (now - then).total_seconds()), 1)
