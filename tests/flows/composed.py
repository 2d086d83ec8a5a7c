"""The services of docker-compose.yml as plain processes: commands, environments and health checks are the file's own.

Only what a container engine would do is put in: host names become ports of loopback, volumes become folders, programs
are those of this machine. PostgreSQL is Debian's (the file's service has no command of its own), prepared by the file's
own script; Redis, Label Studio and all our parts run as the file says.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from backend.labelstudio.client import LabelStudioClient
from backend.processes import end, record_of, start_tied
from backend.store.sessions import Database
from tests.compose import parsed, services, with_values
from tests.flows.stack import COMMAND
from tests.label_studio_tables import PROGRAM, lay_tables
from tests.team_servers import TeamPostgres, absent, find_programs, free_port

Found = TypeVar("Found")


@dataclass
class Process:
    """One running replica of a service."""

    name: str
    child: subprocess.Popen[bytes]
    log: Path

    def stop(self, sent: signal.Signals = signal.SIGTERM, grace_s: float = 30.0) -> None:
        record = record_of(self.name, self.child.pid, sent)
        if record is not None and self.child.poll() is None:
            end(record, grace_s=grace_s)
        self.child.wait()

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@dataclass
class Composed:
    """A folder for all volumes, the values of a .env, and what runs."""

    folder: Path
    postgres: TeamPostgres
    own_settings: Mapping[str, str]
    ports: dict[str, int] = field(
        default_factory=lambda: {name: free_port() for name in ("redis", "label-studio", "api", "api-2")}
    )
    running: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = ("POSTGRES_PASSWORD", "DATABASE_PASSWORD", "REDIS_PASSWORD", "LABEL_STUDIO_PASSWORD")
        self.variables = {name: secrets.token_hex(12) for name in names} | {
            "POSTGRES_PASSWORD": self.postgres.admin_password,
            "LABEL_STUDIO_LOGIN": "annotator@example.com",
            "LABEL_STUDIO_TOKEN": secrets.token_hex(20),
            # Containers reach the first API, browsers the second: both have work.
            "PUBLIC_URL": f"http://127.0.0.1:{self.ports['api-2']}",
            "LABEL_STUDIO_PUBLIC_URL": f"http://localhost:{self.ports['label-studio']}",
        }
        self.services = services(self.variables)

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def here(self, text: str, *, api: str = "api") -> str:
        """A text of the file with this machine's places: hosts, ports, folders."""
        for wanted, given in {
            r"@postgres:5432\b": f"@127.0.0.1:{self.postgres.port}",
            r"@redis:6379\b": f"@127.0.0.1:{self.ports['redis']}",
            r"//api:9090\b": f"//127.0.0.1:{self.ports['api']}",
            r"//label-studio:8080\b": f"//127.0.0.1:{self.ports['label-studio']}",
            r"\b127\.0\.0\.1:9090\b": f"127.0.0.1:{self.ports[api]}",
            r"\b127\.0\.0\.1:8080\b": f"127.0.0.1:{self.ports['label-studio']}",
            r"^9090$": str(self.ports[api]),
            r"^8080$": str(self.ports["label-studio"]),
            r"--port 6379\b": f"--bind 127.0.0.1 --port {self.ports['redis']}",
            r"-p 6379\b": f"-p {self.ports['redis']}",
            r"^--host=127\.0\.0\.1$": f"--host=127.0.0.1 --port={self.postgres.port}",
            r"^0\.0\.0\.0$": "127.0.0.1",
            r"^/state$": str(self.state),
            r"^/label-studio(?=/|$)": str(self.folder / "label-studio"),
            # The containers' network is the loopback here, so the guard must let that one through.
            r"^127\.0\.0\.0/8,::1/128,": "",
        }.items():
            text = re.sub(wanted, lambda _, given=given: given, text)
        return text

    def environment(self, name: str, *, api: str = "api") -> dict[str, str]:
        """The service's own, and nothing of ours but where programs are."""
        kept = {key: os.environ[key] for key in ("PATH", "LANG") if key in os.environ}
        kept |= {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp")}
        made = kept | {key: self.here(value, api=api) for key, value in self.services[name].environment.items()}
        return made | dict(self.own_settings) if "MPAMATCH_STATE" in made else made

    def command(self, words: tuple[str, ...], *, api: str = "api") -> list[str]:
        programs = {"mpamatch": COMMAND, "label-studio": [str(PROGRAM)], "python": [sys.executable]}
        first, rest = words[0], [word for one in words[1:] for word in self._words(one, api)]
        return [*programs.get(first, [first]), *rest]

    def _words(self, word: str, api: str) -> list[str]:
        given = self.here(word, api=api)
        return given.split() if given != word and word.startswith("--") else [given]

    def start(self, name: str, replica: str = "", *, api: str = "api") -> Process:
        """One more replica of a service."""
        log = self.folder / "logs" / f"{name}{replica}.log"
        child = start_tied(
            self.command(self.services[name].command, api=api),
            log,
            environment=self.environment(name, api=api),
            folder=self._volume(name),
        )
        made = Process(name + replica, child, log)
        self.running.append(made)
        return made

    def _volume(self, name: str) -> Path:
        folder = self.folder / (name if name in ("redis", "label-studio") else "state")
        folder.mkdir(exist_ok=True)
        return folder

    def healthy(self, name: str, *, api: str = "api") -> bool:
        """What the service's own health check says."""
        kind, *words = self.services[name].whole["healthcheck"]["test"]
        command = ["sh", "-c", self.here(words[0])] if kind == "CMD-SHELL" else self.command(tuple(words), api=api)
        return self._quietly(command, self.environment(name, api=api)) == 0

    @staticmethod
    def _quietly(command: list[str], environment: dict[str, str]) -> int:
        return subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False).returncode

    def execute(self, *arguments: str, as_json: bool = True) -> Any:
        """As `docker compose exec api mpamatch ...`."""
        command = [*COMMAND, *arguments, *(["--json"] if as_json else [])]
        done = subprocess.run(
            command, env=self.environment("api"), capture_output=True, text=True, timeout=180, check=False
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return json.loads(done.stdout) if as_json else done.stdout

    def prepare_database(self) -> None:
        """What the image of PostgreSQL does on an empty volume: run the script of the file."""
        script = with_values(parsed()["configs"]["plain-role"]["content"], self.variables)
        environment = self.environment("postgres") | {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.postgres.port),
            "PGPASSWORD": self.variables["POSTGRES_PASSWORD"],
        }
        done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def database(self) -> Iterator[Database]:
        found = Database(self.environment("api")["MPAMATCH_DATABASE_URL"])
        try:
            yield found
        finally:
            found.close()

    def label_studio(self) -> LabelStudioClient:
        environment = self.environment("api")
        return LabelStudioClient(environment["MPAMATCH_LABEL_STUDIO_URL"], environment["MPAMATCH_LABEL_STUDIO_TOKEN"])

    def wait(self, what: str, look: Callable[[], Found | None], limit_s: float = 180.0) -> Found:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            found = look()
            if found:
                return found
            time.sleep(0.3)
        raise AssertionError(f"{what} did not come within {limit_s:.0f} s\n{self.last_words()}")

    def last_words(self) -> str:
        return "\n".join(f"--- {p.name}\n" + "\n".join(p.said().splitlines()[-15:]) for p in self.running)

    def stop(self) -> None:
        for process in reversed(self.running):
            process.child.terminate()
        for process in reversed(self.running):
            process.stop(grace_s=20.0)
        self.postgres.stop()


@contextmanager
def composed(**own_settings: Any) -> Iterator[Composed]:
    """The servers of the file, prepared; Label Studio, which takes longer, is starting. All is stopped at the end."""
    programs = find_programs()
    if programs is None:
        absent()
    with tempfile.TemporaryDirectory(prefix="mpamatch-composed-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)
        for part in ("state", "home", "tmp", "logs"):
            (folder / part).mkdir()
        made = Composed(
            folder,
            TeamPostgres(folder, programs.postgres, options={"fsync": "off"}),
            {f"MPAMATCH_{key.upper()}": str(value) for key, value in own_settings.items()},
        )
        try:
            made.postgres.start(with_role=False)
            lay_tables(folder / "label-studio" / "label_studio.sqlite3")
            made.start("label-studio")
            made.start("redis")
            made.wait("PostgreSQL", lambda: made.healthy("postgres"), 30)
            made.wait("Redis", lambda: made.healthy("redis"), 30)
            made.prepare_database()
            yield made
        finally:
            made.stop()
