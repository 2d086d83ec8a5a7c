"""The supervisor on tiny children: nothing is left behind, no stranger is touched, what dies comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backend.commands import stack
from backend.commands.ports import PortHolds, free_port
from backend.commands.supervisor import Part, RestartPolicy, Supervisor, end_leftovers, sole_owner
from backend.processes import ProcessBook, ProcessRecord, end, is_alive, load_book, marked, record_of, save_book
from backend.servers import EmbeddedPostgres, EmbeddedRedis
from backend.settings import Settings
from backend.sockets import drop_socket_folder
from mpamatch.errors import Cancelled, Conflict, Unavailable

pytestmark = pytest.mark.processes

SLEEP = "import time; time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)
PARENT = (
    "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    "open({pid!r}, 'w').write(str(p.pid)); time.sleep({seconds})"
)
FAST = RestartPolicy(first_wait_s=0.05, longest_wait_s=0.2, deaths=3, window_s=30.0, meant_after_s=0.3)


def part(role: str, code: str, **changes: object) -> Part:
    made = Part(role=role, command=[sys.executable, "-S", "-c", code], environment=dict(os.environ), stop_rank=0)
    return replace(made, **changes)  # type: ignore[arg-type]


def eventually(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


async def comes(condition: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def said_up(state: Path, role: str) -> bool:
    """Whether a stubborn part is deaf to SIGTERM by now."""
    log = state / "logs" / f"{role}.log"
    return log.exists() and "up" in log.read_text()


@contextlib.contextmanager
def supervised(state: Path, **codes: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.flows.supervised", str(state)]
    command += [f"{name}={code}" for name, code in codes.items()]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = []
    for line in child.stdout:
        lines.append(line)
        if line == "ready\n":
            break
    else:
        pytest.fail(f"did not start: {lines}")
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait()
        child.stdout.close()


def test_after_a_kill_of_the_supervisor_no_part_is_left_within_five_seconds(tmp_path: Path) -> None:
    with supervised(tmp_path, one=SLEEP, two=STUBBORN) as child:
        book = load_book(tmp_path)
        assert book is not None
        assert [record.role for record in book.parts] == ["one", "two"]
        assert all(is_alive(record) for record in book.parts)
        child.kill()
        assert eventually(lambda: not any(is_alive(record) for record in book.parts))


def test_the_next_start_ends_what_a_part_of_a_killed_supervisor_had_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with supervised(tmp_path, parent=PARENT.format(pid=str(note), seconds=600)) as child:
        assert eventually(lambda: note.exists() and note.read_text() != "")
        grandchild = record_of("grandchild", int(note.read_text()))
        assert grandchild is not None
        child.kill()
        child.wait()
        time.sleep(0.3)
        assert is_alive(grandchild), "the kernel ties children, not grandchildren; the mark is for those"
        with supervised(tmp_path, other=SLEEP):
            assert not is_alive(grandchild)


def test_a_process_with_a_recorded_pid_but_another_start_time_is_never_touched(tmp_path: Path) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    try:
        truth = record_of("stranger", stranger.pid)
        assert truth is not None
        wrong = replace(truth, create_time=truth.create_time - 60)
        save_book(tmp_path, ProcessBook("no such mark", wrong, (wrong,)))
        said: list[str] = []
        end_leftovers(tmp_path, said.append)
        assert not end(wrong)
        assert stranger.poll() is None
        assert said == []
        # The same call does end the very process that was recorded: the guard is what saved the stranger.
        save_book(tmp_path, ProcessBook("no such mark", wrong, (truth,)))
        end_leftovers(tmp_path, said.append)
        assert stranger.wait(30) == -signal.SIGTERM
        assert said == [f"stranger: ended, was left by an earlier start (pid {stranger.pid})"]
    finally:
        if stranger.poll() is None:
            stranger.kill()
        stranger.wait()


def test_a_process_without_the_mark_is_no_remains(tmp_path: Path) -> None:
    assert marked("0123456789") == []


def test_a_book_that_cannot_be_read_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "processes.json").write_text('{"parts": [{"pid": 1}]}')
    end_leftovers(tmp_path, lambda line: pytest.fail(line))


def test_a_part_that_dies_comes_back_and_what_it_had_started_is_ended_first(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    async def run() -> None:
        said: list[str] = []
        supervisor = Supervisor(tmp_path, said.append, policy=FAST)
        await supervisor.start(part("worker", PARENT.format(pid=str(note), seconds=600)))
        assert await comes(lambda: note.exists() and note.read_text() != "")
        grandchild = ProcessRecord("grandchild", int(note.read_text()), 0)
        grandchild = record_of("grandchild", grandchild.pid) or grandchild
        book = load_book(tmp_path)
        assert book is not None
        first = book.parts[0]
        os.kill(first.pid, signal.SIGKILL)
        assert await comes(lambda: not is_alive(grandchild))

        def is_back() -> bool:
            now = load_book(tmp_path)
            return bool(now and now.parts and now.parts[0].pid != first.pid and is_alive(now.parts[0]))

        assert await comes(is_back)
        assert supervisor.failure is None
        assert "worker: ended (signal SIGKILL)" in said[0]
        await supervisor.stop()
        left = load_book(tmp_path)
        assert left is not None
        assert left.parts == ()

    asyncio.run(run())


def test_a_part_that_keeps_dying_is_given_up_with_a_line_that_names_its_log(tmp_path: Path) -> None:
    async def run(vital: bool) -> tuple[list[str], str | None]:
        said: list[str] = []
        supervisor = Supervisor(tmp_path, said.append, policy=FAST)
        await supervisor.start(part("sick", "import time, sys; time.sleep(0.1); sys.exit(3)", vital=vital))
        await supervisor.start(part("sound", SLEEP))
        assert await comes(lambda: supervisor.phases()["sick"] == "given up")
        if vital:
            await asyncio.wait_for(supervisor.until_stopped(), 30)
        assert supervisor.phases()["sound"] == "ready"
        failure = supervisor.failure
        await supervisor.stop()
        return said, failure

    said, failure = asyncio.run(run(vital=False))
    log = tmp_path / "logs" / "sick.log"
    assert said[-1] == f"sick: ended 3 times within 30 s (last: code 3); given up; see {log}"
    assert failure is None
    said, failure = asyncio.run(run(vital=True))
    assert failure == said[-1]


def test_a_part_that_ends_by_itself_after_its_work_is_started_again_and_not_counted(tmp_path: Path) -> None:
    count = tmp_path / "count"
    code = f"import time; open({str(count)!r}, 'a').write('x'); time.sleep(0.5)"

    async def run() -> None:
        said: list[str] = []
        supervisor = Supervisor(tmp_path, said.append, policy=FAST)
        await supervisor.start(part("finite", code))
        assert await comes(lambda: count.exists() and len(count.read_text()) >= 5, 60)
        assert said == []
        await supervisor.stop()

    asyncio.run(run())


def test_a_part_that_ends_at_once_or_never_gets_ready_fails_the_start_and_names_the_log(tmp_path: Path) -> None:
    async def run() -> None:
        supervisor = Supervisor(tmp_path, lambda line: None)
        with pytest.raises(Unavailable, match=r"broken: ended at its start \(code 5\); see .*broken\.log"):
            await supervisor.start(part("broken", "import sys; sys.exit(5)", ready=lambda pid: False))
        with pytest.raises(Unavailable, match=r"slow: did not become ready; see .*slow\.log"):
            await supervisor.start(part("slow", SLEEP, ready=lambda pid: False, ready_timeout_s=0.3))
        await supervisor.stop()
        left = load_book(tmp_path)
        assert left is not None
        assert left.parts == ()

    asyncio.run(run())


def test_parts_stop_in_the_order_of_their_ranks_and_a_stubborn_one_is_ended_after_its_grace(tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        "import signal, sys, time\n"
        "def leave(*_): open({path!r}, 'a').write({name!r}); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, leave)\n"
        "open({path!r} + {name!r}, 'w')\n"
        "time.sleep(600)\n"
    )

    async def run() -> float:
        said: list[str] = []
        supervisor = Supervisor(tmp_path, said.append)
        for name, rank in (("c", 3), ("a", 1), ("b", 2)):
            ready = (tmp_path / f"order{name}").exists
            made = part(name, code.format(path=str(order), name=name), stop_rank=rank)
            await supervisor.start(replace(made, ready=lambda pid, ready=ready: ready()))
        await supervisor.start(part("stubborn", STUBBORN, stop_rank=2, grace_s=0.5))
        assert await comes(lambda: said_up(tmp_path, "stubborn"))
        began = time.monotonic()
        await supervisor.stop()
        assert said == ["stubborn: did not stop in time; ended"]
        return time.monotonic() - began

    assert asyncio.run(run()) < 5
    assert order.read_text() == "abc"


def test_all_is_down_within_the_time_allowed_even_when_every_part_is_stubborn(tmp_path: Path) -> None:
    async def run() -> float:
        supervisor = Supervisor(tmp_path, lambda line: None, stop_within_s=1.5)
        for rank in range(4):
            await supervisor.start(part(f"stubborn-{rank}", STUBBORN, stop_rank=rank, grace_s=60))
        assert await comes(lambda: all(said_up(tmp_path, f"stubborn-{rank}") for rank in range(4)))
        book = load_book(tmp_path)
        assert book is not None
        began = time.monotonic()
        await supervisor.stop()
        assert not any(is_alive(record) for record in book.parts)
        return time.monotonic() - began

    assert asyncio.run(run()) < 30  # each alone had 60


def test_a_first_interrupt_stops_cleanly_and_a_second_one_at_once(tmp_path: Path) -> None:
    with supervised(tmp_path, one=SLEEP) as child:
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0
    with supervised(tmp_path, stubborn=STUBBORN) as child:
        assert eventually(lambda: said_up(tmp_path, "stubborn"))
        began = time.monotonic()
        child.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 0
        assert time.monotonic() - began < 10


def test_work_under_way_is_left_when_a_stop_is_asked_for(tmp_path: Path) -> None:
    async def run() -> None:
        supervisor = Supervisor(tmp_path, lambda line: None)
        work = asyncio.create_task(asyncio.sleep(60))
        asyncio.get_running_loop().call_later(0.1, supervisor.ask_to_stop)
        with pytest.raises(Cancelled):
            await supervisor.unless_stopped(work)
        assert work.cancelled()

    asyncio.run(run())


def test_a_second_supervisor_on_the_same_state_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with (
        sole_owner(tmp_path),
        pytest.raises(Conflict, match=f"is in use by process {os.getpid()}"),
        sole_owner(tmp_path),
    ):
        pytest.fail("two owners")
    with sole_owner(tmp_path):
        assert (tmp_path.stat().st_mode & 0o077) == 0


def test_a_taken_port_gives_the_next_free_one_and_says_so() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        wished = holder.getsockname()[1]
        said: list[str] = []
        port = free_port("127.0.0.1", wished, said.append, what="API")
        assert port > wished
        assert said == [f"API: port {wished} is taken, using {port}"]
        assert free_port("127.0.0.1", port, said.append, what="API", taken={port}) > port


def test_a_port_that_another_stack_has_chosen_is_taken_before_anything_listens_on_it(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        wished = probe.getsockname()[1]
    first, second = PortHolds(tmp_path / "ports"), PortHolds(tmp_path / "ports")
    chosen = free_port("127.0.0.1", wished, print, what="Label Studio", holds=first)
    assert free_port("127.0.0.1", chosen, print, what="Label Studio", holds=second) > chosen
    first.release()
    assert free_port("127.0.0.1", chosen, print, what="Label Studio", holds=second) == chosen
    assert ((tmp_path / "ports").stat().st_mode & 0o077) == 0


def test_a_port_is_chosen_also_where_nothing_can_be_held(tmp_path: Path) -> None:
    (tmp_path / "ports").write_text("in the way")
    assert free_port("127.0.0.1", 20_000, print, what="API", holds=PortHolds(tmp_path / "ports")) >= 20_000


def test_a_large_log_is_set_aside_at_the_next_start(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "chatty.log"
    log.parent.mkdir()
    log.write_text("old" * 1000)

    async def run() -> None:
        supervisor = Supervisor(tmp_path, lambda line: None, log_size_mb=0.001)
        await supervisor.start(part("chatty", "print('new', flush=True); import time; time.sleep(600)"))
        assert await comes(lambda: log.read_text() == "new\n")
        await supervisor.stop()

    asyncio.run(run())
    assert (tmp_path / "logs" / "chatty.log.1").read_text().startswith("old")


def test_children_write_inside_the_state_and_torch_ones_share_the_cores(tmp_path: Path) -> None:
    settings = Settings(state=tmp_path, threads=None)
    worker = stack.worker_part(settings, "train").environment
    assert worker["OMP_WAIT_POLICY"] == "passive"
    assert worker["GOMP_SPINCOUNT"] == "0"
    assert worker["OMP_NUM_THREADS"] == str(max(1, len(os.sched_getaffinity(0)) // 2))
    assert stack.worker_part(Settings(state=tmp_path, threads=7), "predict").environment["OMP_NUM_THREADS"] == "7"
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"):
        assert Path(worker[name]).is_relative_to(tmp_path)
        assert Path(worker[name]).is_dir()
    assert {"127.0.0.1", "localhost"} <= set(worker["NO_PROXY"].split(","))


@pytest.mark.database
@pytest.mark.embedded
def test_a_killed_database_is_started_again_with_its_rows(servers_state: Path) -> None:
    state = servers_state / "supervised"

    async def run() -> None:
        said: list[str] = []
        supervisor = Supervisor(state, said.append, policy=FAST)
        postgres, redis = EmbeddedPostgres(state), EmbeddedRedis(state)
        await asyncio.gather(
            supervisor.start(stack.database_part(postgres)), supervisor.start(stack.broker_part(redis))
        )
        postgres.bootstrap()
        running = postgres.running()
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        assert await comes(lambda: supervisor.phases()["postgres"] != "ready")
        assert await comes(lambda: supervisor.phases()["postgres"] == "ready", 20)
        assert postgres.ready()
        assert redis.ready()
        assert postgres.running() != running
        await supervisor.stop()
        assert postgres.running() is None
        assert not redis.ready()

    asyncio.run(run())
    for name in ("postgres", "redis"):
        drop_socket_folder(state, name)
