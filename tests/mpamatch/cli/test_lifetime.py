"""How commands that wait for children end, whatever signals come and whoever listens; in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.processes

BEGIN = """
import os, signal, sys, threading, time
from mpamatch.cli import lifetime
from mpamatch.cli.lifetime import STOPPED, ParentStop, die_with_parent, unheard
"""
# Works until it is asked, and then lets its children take their time.
WAITS = (
    BEGIN
    + """
stop = ParentStop()
stop.training = True
print("ready", flush=True)
while not stop():
    time.sleep(0.01)
print("asked", flush=True)
until = time.monotonic() + float(sys.argv[1])
while time.monotonic() < until:
    stop()
    time.sleep(0.01)
sys.exit(3)
"""
)


def start(program: str, *arguments: str, ready: str | None = "ready") -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", program, *arguments], stdout=subprocess.PIPE, text=True)
    if ready is not None:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == ready
    return child


def end(child: subprocess.Popen[str], timeout_s: float = 20) -> int:
    try:
        return child.wait(timeout_s)
    finally:
        child.kill()
        child.communicate()


def test_a_second_signal_does_not_wait_for_children() -> None:
    child = start(WAITS, "60")
    child.send_signal(signal.SIGTERM)
    assert child.stdout is not None
    assert child.stdout.readline().strip() == "asked"
    time.sleep(1.2)
    child.send_signal(signal.SIGINT)
    assert end(child) == 75


def test_a_signal_that_comes_twice_at_once_is_one() -> None:
    child = start(WAITS, "0.5")
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
        child.send_signal(number)
        time.sleep(0.05)
    assert end(child) == 3, "it had its time to end by itself"


def test_it_waits_for_children_for_longer_than_it_waits_for_nothing() -> None:
    program = WAITS.replace("stop = ParentStop()", "lifetime._UNMOVED_S = 0.3\nstop = ParentStop()")
    child = start(program, "2")
    child.send_signal(signal.SIGTERM)
    assert end(child) == 3


@pytest.mark.parametrize("blocked", ["os.read(os.pipe()[0], 1)", "wait_for(threading.RLock())"])
def test_what_never_comes_does_not_keep_it(blocked: str) -> None:
    program = (
        BEGIN
        + f"""
lifetime._UNMOVED_S = 0.5
def wait_for(lock):
    taken = threading.Event()
    def take():
        lock.acquire()
        taken.set()
        time.sleep(600)
    threading.Thread(target=take, daemon=True).start()
    taken.wait()
    lock.acquire()
stop = ParentStop()
stop.training = True
print("ready", flush=True)
{blocked}
"""
    )
    child = start(program)
    child.send_signal(signal.SIGTERM)
    assert end(child) == 75


def test_it_hears_ctrl_c_where_a_shell_had_it_ignored() -> None:
    """A script starts what stands before an ampersand with SIGINT ignored, and children inherit that."""
    program = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-c", {WAITS!r}, "0"])
"""
    child = start(program)
    child.send_signal(signal.SIGINT)
    assert end(child) == 3


def test_before_anything_began_it_leaves_at_once() -> None:
    child = start(BEGIN + "stop = ParentStop()\nprint('ready', flush=True)\ntime.sleep(60)")
    child.send_signal(signal.SIGTERM)
    assert end(child) == 75


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_the_exit_code_stays_where_nobody_listens_any_more(closed: str) -> None:
    program = (
        BEGIN
        + """
with unheard():
    print("what was run")
    print("mpamatch: stopped", file=sys.stderr)
sys.exit(STOPPED)
"""
    )
    reads, writes = os.pipe()
    os.close(reads)
    child = subprocess.run([sys.executable, "-c", program], **{closed: writes}, timeout=20)  # type: ignore[call-overload]
    os.close(writes)
    assert child.returncode == 75


def test_another_fault_of_writing_is_not_hidden() -> None:
    program = BEGIN + "with unheard():\n    open('/nowhere/at/all')\n"
    child = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, timeout=20)
    assert "FileNotFoundError" in child.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent-death signal is Linux's")
def test_a_child_whose_parent_ended_before_it_could_ask_leaves() -> None:
    program = BEGIN + "die_with_parent(int(sys.argv[1]))\nsys.exit(3)"
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert end(start(program, str(gone.pid), ready=None)) == 75
    assert end(start(program, str(os.getpid()), ready=None)) == 3
