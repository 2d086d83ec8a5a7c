"""Keeps the parts of the embedded profile running: starts them, restarts what dies, and stops all in order.

It knows processes, not what they do. Every part is tied to this process (`backend/child.py`), carries a mark in its
environment and is written into the state's process book, so that the next start can end what a killed supervisor
left behind, and nothing else.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from backend.processes import (
    MARK,
    Account,
    ProcessBook,
    ProcessRecord,
    end,
    is_alive,
    load_book,
    marked,
    record_of,
    save_book,
    send,
    tied_command,
    wait_gone,
)
from mpamatch.errors import Cancelled, Conflict, Unavailable

Answer = TypeVar("Answer")
Phase = Literal["starting", "ready", "waiting", "given up", "stopped"]
_POLL_S = 0.1
# With less than this left, a part dies of the full disk and of nothing else: giving it up would need a human.
FULL_BELOW_BYTES = 16 * 1024 * 1024
FULL_WAIT_S = 5.0


@dataclass(frozen=True)
class Part:
    """One process to keep running.

    `ready(pid)` is asked until it is true (None: ready as soon as it runs). Parts of a lower `stop_rank` stop first.
    A `vital` part that is given up stops the whole.
    """

    role: str
    command: Sequence[str]
    environment: Mapping[str, str]
    stop_rank: int
    ready: Callable[[int], bool] | None = None
    ready_timeout_s: float = 60.0
    prepare: Callable[[], None] | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    grace_s: float = 5.0
    die_with: signal.Signals = signal.SIGKILL
    account: Account | None = None
    nice: int | None = None
    vital: bool = False


@dataclass(frozen=True)
class RestartPolicy:
    """How a dying part is started again: waits doubling from the first to the longest; given up after `deaths`."""

    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    deaths: int = 5
    window_s: float = 60.0
    # A part that ended by itself with code 0 after this long meant to: it is started again at once.
    meant_after_s: float = 5.0


@dataclass
class _Kept:
    """A part and what became of it."""

    part: Part
    log: Path
    process: asyncio.subprocess.Process | None = None
    record: ProcessRecord | None = None
    phase: Phase = "starting"
    started: float = 0.0
    deaths: deque[float] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


@contextmanager
def sole_owner(state: Path) -> Iterator[None]:
    """Hold the state folder alone; raises `Conflict` naming the process that holds it."""
    path = state / "run" / "lock"
    # Images and labels of patients will lie here: nobody else's business, whatever the umask.
    for folder in (state, path.parent, state / "logs", state / "home"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with path.open("a+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            remedy = "stop that one, or set MPAMATCH_STATE to another folder"
            raise Conflict(str(state), f"is in use by process {holder}", remedy) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def end_leftovers(state: Path, say: Callable[[str], None]) -> None:
    """End what the last supervisor of this state left running; known by pid and start time, or by its mark."""
    book = load_book(state)
    if book is None:
        return
    for record in reversed(book.parts):
        if end(record):
            say(f"{record.role}: ended, was left by an earlier start (pid {record.pid})")
    remains = marked(book.mark)
    for record in remains:
        send(record, signal.SIGKILL)
    wait_gone(remains, 5.0)


async def in_background(work: Callable[[], Answer]) -> Answer:
    """Run blocking work in a daemon thread: unlike an executor's, it never holds up the end of the program."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Answer] = loop.create_future()

    def deliver(result: Answer | None, error: BaseException | None) -> None:
        if answer.done():
            return
        if error is None:
            answer.set_result(result)  # type: ignore[arg-type]
        else:
            answer.set_exception(error)

    def body() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:
            failed = error
        if not loop.is_closed():
            loop.call_soon_threadsafe(deliver, result, failed)

    threading.Thread(target=body, daemon=True).start()
    return await answer


class Supervisor:
    """The keeper of one state folder; use inside `sole_owner`. `say` takes one line of news."""

    def __init__(
        self,
        state: Path,
        say: Callable[[str], None],
        *,
        policy: RestartPolicy | None = None,
        log_size_mb: float = 20,
        stop_within_s: float = 28.0,
    ) -> None:
        self.state = state
        self._say = say
        self.policy = policy or RestartPolicy()
        self.failure: str | None = None
        self._mark = secrets.token_hex(16)
        self._log_bytes = int(log_size_mb * 1024 * 1024)
        self._stop_within_s = stop_within_s
        self._kept: dict[str, _Kept] = {}
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        end_leftovers(state, say)
        self._write_book()

    def say(self, line: str) -> None:
        """One line of news; where it cannot be written (a full disk), the work goes on."""
        with suppress(OSError):
            self._say(line)

    def stop_on_signals(self) -> None:
        """The first SIGINT, SIGTERM or SIGHUP asks for a clean stop; the second one means now."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self.ask_to_stop)

    def ask_to_stop(self) -> None:
        """Ask for the stop; asking again makes it immediate."""
        if self._stop.is_set():
            self._now.set()
        self._stop.set()

    async def until_stopped(self) -> None:
        """Wait for a signal, or for a vital part to be given up (`failure` says which)."""
        await self._stop.wait()

    async def unless_stopped(self, work: asyncio.Task[Answer]) -> Answer:
        """The answer of `work`, or `Cancelled` as soon as a stop is asked for."""
        stop = asyncio.ensure_future(self._stop.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            stop.cancel()
            return work.result()
        work.cancel()
        await asyncio.wait({work})
        raise Cancelled("start", "stopped on request")

    def phases(self) -> dict[str, Phase]:
        """Every part's phase by role."""
        return {role: kept.phase for role, kept in self._kept.items()}

    async def start(self, part: Part) -> None:
        """Start a part, wait until it is ready, and keep it running from then on. Raises `Unavailable`."""
        kept = _Kept(part, self.state / "logs" / f"{part.role}.log")
        self._kept[part.role] = kept
        await self._launch(kept)
        if not await self._until_ready(kept):
            code = kept.process.returncode if kept.process else None
            ended = f"ended at its start ({_how(code)})" if code is not None else "did not become ready"
            raise Unavailable(part.role, ended, f"see {kept.log}")
        kept.task = asyncio.create_task(self._keep(kept))

    async def stop(self) -> None:
        """Stop every part in order, within the time allowed; then forget them."""
        for kept in self._kept.values():
            if kept.task is not None:
                kept.task.cancel()
        deadline = asyncio.get_running_loop().time() + self._stop_within_s
        by_rank: dict[int, list[_Kept]] = {}
        for kept in self._kept.values():
            by_rank.setdefault(kept.part.stop_rank, []).append(kept)
        for rank in sorted(by_rank):
            await asyncio.gather(*(self._stop_one(kept, deadline) for kept in by_rank[rank]))
        for record in marked(self._mark):
            send(record, signal.SIGKILL)
        self._kept.clear()
        self._write_book()

    async def _keep(self, kept: _Kept) -> None:
        while True:
            assert kept.process is not None
            code = await kept.process.wait()
            self._end_remains(kept)
            wait_s = self._wait_before_restart(kept, code)
            if wait_s is None:
                self._give_up(kept, code)
                return
            if wait_s == FULL_WAIT_S and self._disk_is_full():
                self.say(f"{kept.part.role}: ended ({_how(code)}); the disk of {self.state} is full, waiting for space")
                kept.phase = "waiting"
                await asyncio.sleep(wait_s)
            elif wait_s:
                kept.phase = "waiting"
                self.say(f"{kept.part.role}: ended ({_how(code)}); started again in {wait_s:.0f} s; see {kept.log}")
                await asyncio.sleep(wait_s)
            try:
                await self._launch(kept)
                if not await self._until_ready(kept):
                    await self._kill(kept)
            except (Unavailable, OSError) as error:  # a full disk must not end the one who restarts what it ends
                self.say(str(error))

    def _wait_before_restart(self, kept: _Kept, code: int) -> float | None:
        """Seconds to wait, or None when it died too often."""
        now = asyncio.get_running_loop().time()
        if code == 0 and now - kept.started >= self.policy.meant_after_s:
            return 0.0
        if self._disk_is_full():
            return FULL_WAIT_S
        kept.deaths.append(now)
        while kept.deaths[0] < now - self.policy.window_s:
            kept.deaths.popleft()
        if len(kept.deaths) >= self.policy.deaths:
            return None
        wait_s = self.policy.first_wait_s * 2 ** (len(kept.deaths) - 1)
        return min(wait_s, self.policy.longest_wait_s)

    def _disk_is_full(self) -> bool:
        return shutil.disk_usage(self.state).free < FULL_BELOW_BYTES

    def _give_up(self, kept: _Kept, code: int) -> None:
        kept.phase = "given up"
        often = f"ended {self.policy.deaths} times within {self.policy.window_s:.0f} s"
        line = f"{kept.part.role}: {often} (last: {_how(code)}); given up; see {kept.log}"
        self.say(line)
        if kept.part.vital:
            self.failure = line
            self._stop.set()

    async def _launch(self, kept: _Kept) -> None:
        part = kept.part
        kept.phase = "starting"
        if part.prepare is not None:
            await in_background(part.prepare)
        _set_aside(kept.log, self._log_bytes)
        with kept.log.open("ab") as output:
            # From this thread, the main one: the tie to the parent is bound to the thread that starts the child.
            kept.process = await asyncio.create_subprocess_exec(
                *tied_command(part.command, die_with=part.die_with, account=part.account, nice=part.nice),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                env={**part.environment, MARK: self._mark},
                start_new_session=True,
            )
        kept.started = asyncio.get_running_loop().time()
        kept.record = record_of(part.role, kept.process.pid, part.stop_signal)
        self._write_book()

    async def _until_ready(self, kept: _Kept) -> bool:
        """True once ready; False when it ended or the time ran out."""
        process, ready = kept.process, kept.part.ready
        assert process is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + kept.part.ready_timeout_s
        while process.returncode is None:
            try:
                if ready is None or await in_background(lambda: ready(process.pid)):
                    kept.phase = "ready"
                    return True
            except Conflict as error:
                self.say(str(error))
                return False
            if loop.time() > deadline:
                self.say(f"{kept.part.role}: not ready after {kept.part.ready_timeout_s:.0f} s; see {kept.log}")
                return False
            await asyncio.sleep(_POLL_S)
        return False

    async def _stop_one(self, kept: _Kept, deadline: float) -> None:
        process, record = kept.process, kept.record
        if process is not None and record is not None and process.returncode is None:
            send(record, kept.part.stop_signal)
            left = max(0.5, deadline - asyncio.get_running_loop().time())
            if not await self._ends(process, min(kept.part.grace_s, left)):
                self.say(f"{kept.part.role}: did not stop in time; ended")
            await self._kill(kept)
        self._end_remains(kept)
        kept.phase = "stopped"

    async def _ends(self, process: asyncio.subprocess.Process, grace_s: float) -> bool:
        """Whether it ended within the grace; a second request to stop cuts the wait short."""
        waits = {asyncio.ensure_future(process.wait()), asyncio.ensure_future(self._now.wait())}
        _, open_ones = await asyncio.wait(waits, timeout=grace_s, return_when=asyncio.FIRST_COMPLETED)
        for one in open_ones:
            one.cancel()
        return process.returncode is not None

    async def _kill(self, kept: _Kept) -> None:
        if kept.process is not None and kept.process.returncode is None and kept.record is not None:
            send(kept.record, signal.SIGKILL)
            await kept.process.wait()

    def _end_remains(self, kept: _Kept) -> None:
        """End what a part started and left behind: same session, same mark."""
        if kept.process is not None:
            for record in marked(self._mark, session=kept.process.pid):
                send(record, signal.SIGKILL)

    def _write_book(self) -> None:
        me = record_of("supervisor", os.getpid())
        assert me is not None
        parts = tuple(kept.record for kept in self._kept.values() if kept.record is not None)
        save_book(self.state, ProcessBook(self._mark, me, tuple(one for one in parts if is_alive(one))))


def _how(code: int | None) -> str:
    """An exit code in words."""
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"code {code}"


def _set_aside(log: Path, largest_bytes: int) -> None:
    """Keep one older log file beside a new one, so that logs never grow without end."""
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if log.exists() and log.stat().st_size > largest_bytes:
        log.replace(log.with_suffix(".log.1"))
