"""A whole running installation for tests: `mpamatch up` on a state folder of its own, and ways to look into it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from backend.labelstudio.client import LabelStudioClient
from backend.store.blobs import BlobFolder
from backend.store.sessions import Database
from tests.label_studio_tables import lay_tables
from tests.servers import installation_urls

Found = TypeVar("Found")
COMMAND = [sys.executable, "-c", "from mpamatch.cli import main; main()"]


@dataclass
class Stack:
    """One `mpamatch up` and what a test needs of it."""

    state: Path
    options: list[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    status: dict[str, Any] = field(default_factory=dict)
    start_s: float = 0.0

    def start(self) -> None:
        """Returns when all is ready; fails with the last lines of the logs."""
        began = time.monotonic()
        with open(self.state / "up.log", "ab") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "up", "--json", *self.options], stdout=subprocess.PIPE, stderr=log, env=self.environment
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.last_words()
        self.start_s = time.monotonic() - began
        self.status = self.cli("status", "--secrets")

    def stop(self, sent: signal.Signals = signal.SIGINT, limit_s: float = 30.0) -> float:
        """Stop as a person does; returns the seconds it took. Fails when it takes longer than promised."""
        assert self.process is not None
        began = time.monotonic()
        self.process.send_signal(sent)
        self.process.wait(limit_s)
        return time.monotonic() - began

    def cli(self, *arguments: str, as_json: bool = True) -> Any:
        """One command of the product on this state."""
        command = [*COMMAND, *arguments, *(["--json"] if as_json else [])]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stderr}{self.last_words()}"
        return json.loads(done.stdout) if as_json else done.stdout

    def part(self, role: str) -> psutil.Process:
        """A running part by its role in the process book."""
        book = json.loads((self.state / "run" / "processes.json").read_text())
        pid = next(p["pid"] for p in book["parts"] if p["role"] == role)
        return psutil.Process(pid)

    def alive(self) -> list[psutil.Process]:
        """Every process that carries this state in its environment or command."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get("MPAMATCH_STATE") == str(self.state):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    @contextmanager
    def database(self) -> Iterator[Database]:
        endpoints = json.loads((self.state / "run" / "endpoints.json").read_text())
        database = Database(endpoints["database_url"])
        try:
            yield database
        finally:
            database.close()

    @property
    def blobs(self) -> BlobFolder:
        return BlobFolder(self.state / "blobs")

    @property
    def client(self) -> LabelStudioClient:
        studio = self.status["label_studio"]
        return LabelStudioClient(studio["url"], studio["token"])

    @property
    def ls_project_id(self) -> int:
        return int(self.status["label_studio"]["project"])

    def wait(self, what: str, look: Callable[[], Found | None], limit_s: float = 180.0) -> Found:
        """Look until there is an answer; fails with the last words of the parts."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            found = look()
            if found:
                return found
            time.sleep(0.5)
        raise AssertionError(f"{what} did not come within {limit_s:.0f} s\n{self.last_words()}")

    def last_words(self) -> str:
        """The ends of the logs, for a failing test's report."""
        logs = [
            self.state / "up.log",
            *sorted((self.state / "logs").glob("*.log")),
            *self.state.glob("runs/*/train.log"),
        ]
        return "\n".join(f"--- {log.name}\n" + "\n".join(_tail(log)) for log in logs if log.exists())


def _tail(log: Path, lines: int = 15) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-lines:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(
    options: list[str], *, state: Path | None = None, first_of_all: bool = False, **settings: Any
) -> Iterator[Stack]:
    """A stack that is stopped at the end, however the test ends; its state is removed.

    ``first_of_all``: Label Studio makes its tables itself, as at the very first start.
    """
    state = state or Path(tempfile.mkdtemp(prefix="mpamatch-stack-"))
    if not first_of_all:
        lay_tables(state / "label-studio" / "label_studio.sqlite3")
    with installation_urls() as servers:
        yield from _running(options, {**servers, **settings}, state)


def _running(options: list[str], settings: dict[str, Any], state: Path) -> Iterator[Stack]:
    environment = {**os.environ, "MPAMATCH_STATE": str(state)}
    # Ports of its own: a stack of somebody else may be starting at the same moment.
    settings = {"api_port": _free_port(), "label_studio_port": _free_port(), **settings}
    environment |= {f"MPAMATCH_{name.upper()}": str(value) for name, value in settings.items()}
    stack = Stack(state, options, environment)
    try:
        stack.start()
        yield stack
    finally:
        if stack.process is not None and stack.process.poll() is None:
            stack.process.send_signal(signal.SIGINT)
            try:
                stack.process.wait(40)
            except subprocess.TimeoutExpired:
                stack.process.kill()
        for left in stack.alive():
            left.kill()
        shutil.rmtree(state, ignore_errors=True)
