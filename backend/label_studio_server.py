"""Label Studio as a server that we start: its program, its environment, and how to know that it is ours and ready.

It runs in an environment of its own, keeps its SQLite in `STATE/label-studio`, listens on loopback, and makes no call
to the outside. Its address guard stays on; only loopback is allowed, because our backend is there. People who ask for
the next task take turns in it (`label_studio_turns`), which SQLite does not see to.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil

from backend import label_studio_turns
from backend.credentials import Credentials
from mpamatch.errors import Conflict, Unavailable

# The list that Label Studio would use by itself, without 127.0.0.0/8 and ::1.
GUARDED_NETWORKS = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "233.252.0.0/24",
    "240.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::ffff:0:0/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/32",
    "2001:20::/28",
    "2001:db8::/32",
    "2002::/16",
    "fc00::/7",
    "fe80::/10",
    "ff00::/8",
)


class EmbeddedLabelStudio:
    """Label Studio with the generated first user, on `host` and `port`."""

    role = "label-studio"
    stop_signal = signal.SIGTERM

    def __init__(self, state: Path, *, program: Path, host: str, port: int, credentials: Credentials) -> None:
        self.data = state / "label-studio"
        self.program = program
        self.host = host
        self.port = port
        self._credentials = credentials

    @property
    def url(self) -> str:
        """Where people find it."""
        return f"http://{self.host}:{self.port}"

    @property
    def command(self) -> list[str]:
        """The foreground server."""
        where = ["--port", str(self.port), "--internal-host", self.host]
        return [str(self.program), "start", "--no-browser", *where, "--log-level", "WARNING"]

    def environment(self, around: Mapping[str, str]) -> dict[str, str]:
        """`around` without what would redirect it, and every switch it needs to stay by itself."""
        kept = {name: value for name, value in around.items() if not name.startswith(("LABEL_STUDIO_", "HEARTEX_"))}
        switches = {
            "BASE_DATA_DIR": str(self.data),
            "DJANGO_DB": "sqlite",
            "DATABASE_NAME": str(self.data / "label_studio.sqlite3"),
            "HOST": self.url,
            "USERNAME": self._credentials.label_studio_login,
            "PASSWORD": self._credentials.label_studio_password,
            "USER_TOKEN": self._credentials.label_studio_token,
            # Read only when the organization is made, so it has to be there at the very first start.
            "ENABLE_LEGACY_API_TOKEN": "true",
            "DISABLE_SIGNUP_WITHOUT_LINK": "true",
            "USE_DEFAULT_BANNED_SUBNETS": "false",
            "USER_ADDITIONAL_BANNED_SUBNETS": ",".join(GUARDED_NETWORKS),
            "LOCAL_FILES_SERVING_ENABLED": "false",
            # A task that someone opened and left is free again after an hour, not after a day.
            "TASK_LOCK_TTL": "3600",
            "COLLECT_ANALYTICS": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
            "LATEST_VERSION_CHECK": "false",
            "DEBUG": "false",
        }
        paths = [str(self._beside), *filter(None, [around.get("PYTHONPATH")])]
        kept["PYTHONPATH"] = os.pathsep.join(paths)
        return kept | {f"LABEL_STUDIO_{name}": value for name, value in switches.items()}

    @property
    def _beside(self) -> Path:
        """The folder of what Label Studio's interpreter reads at its start."""
        return self.data / "start"

    def prepare(self) -> None:
        """Make the data folder, and lay beside it what is read at the start."""
        self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._beside.mkdir(exist_ok=True, mode=0o700)
        shutil.copyfile(label_studio_turns.__file__, self._beside / "sitecustomize.py")

    def ready(self, pid: int) -> bool:
        """Whether it answers and the answer is of process `pid`.

        Raises Conflict when it moved: on a port that somebody took meanwhile it silently goes to another one, and
        waiting for ours would be in vain.
        """
        ports = listening_ports(pid)
        if ports and self.port not in ports:
            problem = f"port {self.port} was taken while it started, and it moved to {min(ports)}"
            raise Conflict("Label Studio", problem, "start again")
        return self.port in ports and answers(self.host, self.port, "/health/")


def find_label_studio(configured: str | None) -> Path:
    """The label-studio program: the configured one, else that of `.venv-label-studio`, else the one on the PATH."""
    if configured:
        found = shutil.which(configured)
        if found is None:
            raise Unavailable("Label Studio", f"no program at {configured}", "correct MPAMATCH_LABEL_STUDIO_COMMAND")
        return Path(found).absolute()
    beside = Path(__file__).resolve().parent.parent / ".venv-label-studio" / "bin" / "label-studio"
    if beside.exists():
        return beside
    here = Path(".venv-label-studio/bin/label-studio")
    found = str(here.absolute()) if here.exists() else shutil.which("label-studio")
    if found is None:
        raise Unavailable("Label Studio", "not installed", "run `make setup`, or set MPAMATCH_LABEL_STUDIO_COMMAND")
    return Path(found)


def answers(host: str, port: int, path: str, timeout_s: float = 3.0) -> bool:
    """Whether a GET is answered with 200, asked directly and never through a proxy."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def listening_ports(pid: int) -> frozenset[int]:
    """The TCP ports on which process `pid` listens; none for a process that is gone."""
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return frozenset()
    return frozenset(one.laddr.port for one in connections if one.status == psutil.CONN_LISTEN)
