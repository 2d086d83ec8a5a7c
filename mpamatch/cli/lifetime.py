"""How trainings and those who start them end: children with their parent, and both on a signal, so that checkpoints
are left behind."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOPPED = 75
"""Exit code of a run that was stopped and can be resumed (EX_TEMPFAIL)."""
NOT_WRITTEN = 74
"""Exit code of a run whose disk took no more; it can be resumed once there is space (EX_IOERR)."""

LOST = 71
"""Exit code of a run whose device failed under it; a new process may go on (EX_OSERR)."""

_PR_SET_PDEATHSIG = 1
_ONE_WISH_S = 1.0
"""Signals within this are one: `timeout` and Ctrl-C below a wrapper send theirs twice."""
_UNMOVED_S = 30.0
_LOOK_S = 0.5
_ORPHAN_LOOK_S = 0.5
_ORPHAN_GRACE_S = 5.0


class StopRequest:
    """Whether this process was asked to stop, by SIGTERM or SIGINT.

    Before ``training`` is set there is nothing to save, so that the process leaves at once with exit code 75.
    """

    def __init__(self) -> None:
        self.training = False
        self._asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def __call__(self) -> bool:
        return self._asked

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if not self.training:
            os._exit(STOPPED)
        self._asked = True


class ParentStop(StopRequest):
    """The same for a command that only starts children and waits for them; it ends in any case.

    The first signal asks. A second one, a second later or more, leaves at once with exit code 75, and so does this
    object by itself where nobody has asked it anything for half a minute after the first: the command then waits for
    what may never come, such as a terminal that nobody reads. Children that still run end with their parent, see
    :func:`die_with_parent`.
    """

    def __init__(self) -> None:
        self._asked_at = 0.0
        self._called_at = time.monotonic()
        super().__init__()
        threading.Thread(target=self._watch, daemon=True).start()

    def __call__(self) -> bool:
        self._called_at = time.monotonic()
        return super().__call__()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._asked and now - self._asked_at >= _ONE_WISH_S:
            os._exit(STOPPED)
        if not self._asked:
            self._asked_at = now
        super()._on_signal(number, frame)

    def _watch(self) -> None:
        while not (self._asked and time.monotonic() - max(self._asked_at, self._called_at) > _UNMOVED_S):
            time.sleep(_LOOK_S)
        os._exit(STOPPED)


@contextmanager
def unheard() -> Iterator[None]:
    """For what is said on the way out: where nobody listens any more it is lost, and the exit code stays."""
    try:
        yield
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            raise
        # What is still in the buffers is flushed when the interpreter ends, and must find a reader.
        nobody = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nobody, stream.fileno())


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel send SIGTERM when the parent ends (Linux only); leave now if it just did.

    ``parent`` is its process id where it is known: else one that ended before this call is not missed.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(STOPPED)


def leave_after_parent() -> None:
    """Have this process end a few seconds after its parent did, whatever it waits for.

    A process that waits for a peer in native code hears no signal; the thread started here still runs.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_ORPHAN_LOOK_S)
        time.sleep(_ORPHAN_GRACE_S)
        os._exit(STOPPED)

    threading.Thread(target=watch, daemon=True).start()


def use_threads(count: int | None) -> None:
    """Have torch use ``count`` threads; None leaves its own choice."""
    if count is not None:
        import torch

        torch.set_num_threads(count)
