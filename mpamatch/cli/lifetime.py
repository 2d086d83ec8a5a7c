"""How a training child ends: with its parent, and on a signal so that it leaves a checkpoint behind."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from types import FrameType

STOPPED = 75
"""Exit code of a run that was stopped and can be resumed (EX_TEMPFAIL)."""
NOT_WRITTEN = 74
"""Exit code of a run whose disk took no more; it can be resumed once there is space (EX_IOERR)."""

LOST = 71
"""Exit code of a run whose device failed under it; a new process may go on (EX_OSERR)."""

_PR_SET_PDEATHSIG = 1
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


def die_with_parent() -> None:
    """Have the kernel send SIGTERM when the parent ends (Linux only); leave now if it just did."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
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
