"""What every job needs, made once per worker process and passed along."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

import psutil

from backend.clock import utc_now
from backend.labelstudio.client import LabelStudioClient
from backend.settings import Settings
from backend.signs import Signs
from backend.store.blobs import BlobStore
from backend.store.open_blobs import open_blobs
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Project
from backend.wakeups import Wakeups
from workers.jobs.patience import Patience


@dataclass(frozen=True)
class Parts:
    """A worker's connections, its name as a holder of leases, and the clock that it goes by."""

    settings: Settings
    database: Database
    blobs: BlobStore
    keys: KeyRing
    wakeups: Wakeups
    holder: str
    now: Callable[[], datetime] = utc_now
    signs: Signs = field(default_factory=lambda: Signs(None))
    patience: Patience = field(default_factory=Patience)

    @classmethod
    def open(cls, settings: Settings, *, now: Callable[[], datetime] = utc_now) -> Parts:
        """Connect to the database and the broker that run already."""
        return cls(
            settings=settings,
            database=Database(settings.require_database_url()),
            blobs=open_blobs(settings),
            keys=KeyRing.at(settings.state / "key"),
            wakeups=Wakeups(settings.require_broker_url()),
            holder=_me(),
            now=now,
            signs=Signs(settings.require_broker_url()),
        )

    def client(self, project: Project) -> LabelStudioClient | None:
        """Label Studio of a project; None while it is not connected."""
        if project.ls_url is None or project.ls_token is None:
            return None
        return LabelStudioClient(
            project.ls_url, self.keys.open(project.ls_token), timeout_s=self.settings.label_studio_timeout_s
        )


def _me() -> str:
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def holder_alive(holder: str) -> bool:
    """Whether a holder still lives; one on another machine is believed to, until its lease ends."""
    host, _, rest = holder.rpartition(":")[0].rpartition(":")
    pid, created = rest, holder.rpartition(":")[2]
    if host != socket.gethostname() or not pid.isdigit():
        return True
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == created
    except psutil.NoSuchProcess:
        return False
