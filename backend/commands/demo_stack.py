"""The stack for one command: the one that runs on this state, or one of our own that ends with us."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from rich.console import Console

from backend.commands.status import collect_status
from backend.processes import tied_command
from backend.settings import inherited_environment, load_settings
from mpamatch.errors import Unavailable

STOP_S = 40.0


@contextmanager
def running_stack(console: Console) -> Iterator[None]:
    """Yields while everything runs; starts `mpamatch up` when nothing does, and stops what it started."""
    if collect_status(load_settings())["running"]:
        yield
        return
    console.print("starting a stack of our own (it ends with this command)")
    # A command that is told to end takes its stack along; one that is killed does too, since the child is tied to it.
    before = signal.signal(signal.SIGTERM, _leave)
    command = [sys.executable, "-c", "from mpamatch.cli import main; main()", "up", "--json"]
    child = subprocess.Popen(
        tied_command(command, die_with=signal.SIGTERM),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env=inherited_environment(),
    )
    try:
        assert child.stdout is not None
        if not child.stdout.readline():
            raise Unavailable("the stack", "did not start", "see the lines above, or run `mpamatch up`")
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        child.send_signal(signal.SIGINT)
        try:
            child.wait(STOP_S)
        except subprocess.TimeoutExpired:
            child.kill()


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
