"""The Celery application of the workers: tasks are a few lines around a job, which gets everything passed in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

from celery import Celery
from celery.worker import state as worker_state
from kombu.exceptions import OperationalError
from sqlalchemy import text

from backend.clock import utc_now
from backend.settings import Settings
from backend.store.sessions import Database
from backend.wakeups import PREDICT, SWEEP, SYNC, TRAIN, celery_options
from mpamatch.errors import MpamatchError, Unavailable
from workers.parts import Parts

LOG = logging.getLogger("mpamatch.worker")


def make_celery(settings: Settings) -> Celery:
    """An application with the sweep as its only schedule entry; used by workers and by beat."""
    app = Celery("mpamatch", set_as_current=True)
    app.conf.update(celery_options(settings.require_broker_url(), sweep_s=settings.sweep_s))
    return app


def check_connections(settings: Settings) -> None:
    """Raises Unavailable, naming which of database and broker a worker here would not reach."""
    database = Database(settings.require_database_url())
    try:
        with database.transaction() as session:
            session.execute(text("SELECT 1"))
    finally:
        database.close()
    with make_celery(settings).connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=5)
        except (OperationalError, OSError) as error:
            raise Unavailable("broker", "does not answer", "check MPAMATCH_BROKER_URL") from error


def stopping() -> bool:
    """Whether this worker was told to stop: the pool lets a running job go on, so long jobs ask."""
    # Celery sets the exit code here, and the one of a clean stop is 0: compare by identity, not by value.
    flags = (worker_state.should_stop, worker_state.should_terminate)
    return any(flag is not None and flag is not False for flag in flags)


def add_tasks(app: Celery, settings: Settings, *, now: Callable[[], datetime] = utc_now) -> None:
    """Register the jobs, which go by the clock ``now``. Connections are opened once; torch is imported only where a
    job needs it, at its first run."""
    parts = Parts.open(settings, now=now)

    @app.task(name=SYNC)
    def sync(project_id: int, full: bool = False) -> None:
        from workers.jobs.sync import sync_project

        _guarded("sync", lambda: sync_project(parts, project_id, full=full))

    @app.task(name=SWEEP)
    def sweep() -> None:
        from workers.jobs.sweep import sweep as run_sweep

        _guarded("sweep", lambda: run_sweep(parts))

    @app.task(name=TRAIN)
    def train() -> None:
        from workers.jobs.train import train_due

        _guarded("train", lambda: train_due(parts, stop=stopping))

    loaded: list[object] = []

    @app.task(name=PREDICT)
    def predict() -> None:
        from workers.champion import LoadedModels
        from workers.device import choose_device, set_threads
        from workers.jobs.look_again import look_again_due
        from workers.jobs.predict import predict_due

        if not loaded:
            set_threads(settings)
            cache = settings.state / "cache" / "models"
            loaded.append(LoadedModels(parts.blobs, cache, choose_device(settings), settings.weights_dir))
        models = loaded[0]
        assert isinstance(models, LoadedModels)
        _guarded("predict", lambda: predict_due(parts, models, stop=stopping))
        _guarded("second look", lambda: look_again_due(parts, models, stop=stopping))


def _guarded(name: str, job: object) -> None:
    """A job that fails is logged; the sweep wakes it again. The message is not redelivered: rows say what is due."""
    assert callable(job)
    try:
        job()
    except MpamatchError as error:
        LOG.warning("%s: %s", name, error)
    except Exception:
        LOG.exception("%s failed; the sweep tries again", name)
