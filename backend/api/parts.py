"""What every route needs, made once by the app factory and passed along: no globals."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from backend.settings import Settings
from backend.store.blobs import BlobStore
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.wakeups import Wakeups


@dataclass(frozen=True)
class Parts:
    """The API's connections."""

    settings: Settings
    database: Database
    blobs: BlobStore
    keys: KeyRing
    wakeups: Wakeups


def parts_of(request: Request) -> Parts:
    parts: Parts = request.app.state.parts
    return parts
