"""The app factory: settings in, an ASGI application out. Importing this opens nothing."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from backend.api import health, metrics, ml_backend, tiles
from backend.api.errors import add_error_handlers
from backend.api.limits import BodyLimit
from backend.api.parts import Parts
from backend.api.v1 import answers, audit, events, images, models, progress, projects, queue, runs
from backend.settings import Settings
from backend.store.open_blobs import open_blobs
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.wakeups import Wakeups


def create_app(settings: Settings) -> FastAPI:
    """The API on a database and a broker that run already. Raises Unavailable when nothing is configured."""
    parts = Parts(
        settings=settings,
        database=Database(settings.require_database_url()),
        blobs=open_blobs(settings),
        keys=KeyRing.at(settings.state / "key"),
        wakeups=Wakeups(settings.require_broker_url()),
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        warming = threading.Thread(target=parts.wakeups.warm, daemon=True)
        warming.start()
        yield
        parts.database.close()

    app = FastAPI(title="mpamatch", version="1", lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.parts = parts
    app.state.metrics = metrics.Metrics(parts)
    app.state.streams = events.Streams(settings.event_streams)
    app.add_middleware(BodyLimit, limit_mb=settings.body_limit_mb, predict_limit_mb=settings.predict_body_limit_mb)
    add_error_handlers(app)
    v1 = (projects, images, queue, answers, progress, runs, models, audit, events)
    for part in (health, metrics, ml_backend, tiles, *v1):
        app.include_router(part.router)
    return app
