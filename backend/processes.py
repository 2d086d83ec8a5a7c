"""Processes as recorded facts: start one tied to us, know it again later, end it and nobody else.

A process is known by its pid and its start time together, never by its name: a pid alone may have a new owner.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from backend.settings import write_private

SHIM = Path(__file__).with_name("child.py")
MARK = "MPAMATCH_MARK"
# A start time is derived from the boot time, which moves by fractions of a second when the clock is disciplined.
SAME_START_S = 1.0


@dataclass(frozen=True)
class Account:
    """A system user to run as."""

    uid: int
    gid: int


@dataclass(frozen=True)
class ProcessRecord:
    """A process as it was when recorded; `create_time` in seconds since the epoch."""

    role: str
    pid: int
    create_time: float
    stop_signal: int = int(signal.SIGTERM)


@dataclass(frozen=True)
class ProcessBook:
    """Who runs on one state folder: the supervisor, its parts in the order of their start, and its mark.

    Every part carries the mark in its environment, and so do the processes that a part starts.
    """

    mark: str
    supervisor: ProcessRecord
    parts: tuple[ProcessRecord, ...] = ()


def tied_command(
    command: Sequence[str],
    *,
    die_with: signal.Signals = signal.SIGKILL,
    account: Account | None = None,
    nice: int | None = None,
) -> list[str]:
    """The command behind the shim: it gets `die_with` when this process dies, and runs as `account`.

    The wish is bound to the *thread* that starts it; start from the main thread only.
    """
    shim = [sys.executable, "-I", "-S", str(SHIM), "--parent", str(os.getpid()), "--signal", str(int(die_with))]
    if account is not None:
        shim += ["--user", f"{account.uid}:{account.gid}"]
    if nice is not None:
        shim += ["--nice", str(nice)]
    return [*shim, "--", *command]


def start_tied(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str],
    die_with: signal.Signals = signal.SIGKILL,
    account: Account | None = None,
    nice: int | None = None,
    folder: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a tied child in a session of its own, its output appended to `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            tied_command(command, die_with=die_with, account=account, nice=nice),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )


def record_of(role: str, pid: int, stop_signal: signal.Signals = signal.SIGTERM) -> ProcessRecord | None:
    """The record of a living process, or None when it is gone."""
    try:
        return ProcessRecord(role, pid, psutil.Process(pid).create_time(), int(stop_signal))
    except psutil.Error:
        return None


def book_path(state: Path) -> Path:
    """The file of the process book of a state folder."""
    return state / "run" / "processes.json"


def save_book(state: Path, book: ProcessBook) -> None:
    """Write the book, whole or not at all."""
    write_private(book_path(state), json.dumps(asdict(book), indent=2))


def load_book(state: Path) -> ProcessBook | None:
    """The book as last written, or None when there is none or it cannot be read."""
    try:
        found = json.loads(book_path(state).read_text(encoding="utf-8"))
        parts = tuple(ProcessRecord(**one) for one in found["parts"])
        return ProcessBook(str(found["mark"]), ProcessRecord(**found["supervisor"]), parts)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def marked(mark: str, *, session: int | None = None) -> list[ProcessRecord]:
    """Living processes that carry a mark in their environment, but for ourselves; of one session when given."""
    found = []
    for pid in psutil.pids():
        try:
            if pid == os.getpid() or (session is not None and os.getsid(pid) != session):
                continue
            carries = psutil.Process(pid).environ().get(MARK) == mark
        except (psutil.Error, OSError):
            continue
        record = record_of("remains", pid) if carries else None
        if record is not None and is_alive(record):
            found.append(record)
    return found


def is_alive(record: ProcessRecord) -> bool:
    """Whether that very process still runs: same pid and same start time, and not merely unreaped."""
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.create_time) <= SAME_START_S
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def family(record: ProcessRecord) -> list[ProcessRecord]:
    """The process and its living descendants."""
    if not is_alive(record):
        return []
    try:
        children = psutil.Process(record.pid).children(recursive=True)
    except psutil.Error:
        children = []
    found = [record_of(record.role, child.pid) for child in children]
    return [record, *(child for child in found if child is not None)]


def send(record: ProcessRecord, signal_number: signal.Signals) -> None:
    """Signal that very process; nothing when it is gone."""
    if is_alive(record):
        try:
            os.kill(record.pid, signal_number)
        except ProcessLookupError:
            return


def end(record: ProcessRecord, *, grace_s: float = 10.0) -> bool:
    """Ask a recorded process to stop, wait, then kill it with its descendants. True when it was alive."""
    members = family(record)
    if not members:
        return False
    send(record, signal.Signals(record.stop_signal))
    if not wait_gone([record], grace_s):
        members = family(record) or members
    for member in members:
        send(member, signal.SIGKILL)
    wait_gone(members, 5.0)
    return True


def wait_gone(records: Sequence[ProcessRecord], timeout_s: float) -> bool:
    """Wait until none of them lives; False when the time ran out."""
    deadline = time.monotonic() + timeout_s
    while any(is_alive(record) for record in records):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
