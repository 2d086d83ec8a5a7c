"""What every job needs, made once per worker process and passed along."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import psutil

from backend.labelstudio.client import LabelStudioClient
from backend.settings import Settings
from backend.store.blobs import BlobFolder
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Project
from backend.wakeups import Wakeups


@dataclass(frozen=True)
class Parts:
    """A worker's connections and its name as a holder of leases."""

    settings: Settings
    database: Database
    blobs: BlobFolder
    keys: KeyRing
    wakeups: Wakeups
    holder: str

    @classmethod
    def open(cls, settings: Settings) -> Parts:
        """Connect to the database and the broker that run already."""
        return cls(
            settings=settings,
            database=Database(settings.require_database_url()),
            blobs=BlobFolder(settings.blobs_folder),
            keys=KeyRing.at(settings.state / "key"),
            wakeups=Wakeups(settings.require_broker_url()),
            holder=_me(),
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
