"""A free port: the wished one, or the next that nobody holds."""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from mpamatch.errors import Unavailable

_TRIES = 100


class PortHolds:
    """Ports that one stack has chosen, held against the other stacks of this user.

    A server listens long after its port was chosen, Label Studio half a minute and more; until then only a lock tells
    another stack that the port is spoken for. The system lets go of locks when their process ends, however it ends.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir()) / f"mpamatch-ports-{os.getuid()}"
        self._locks: list[TextIO] = []

    def take(self, port: int) -> bool:
        """Hold a port; False when another stack does. A folder that is not ours is left alone: then nothing is held."""
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            if self._folder.is_symlink() or self._folder.stat().st_uid != os.getuid():
                return True
            lock = (self._folder / str(port)).open("w")
        except OSError:
            return True
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            return False
        self._locks.append(lock)
        return True

    def release(self) -> None:
        """Let go of every port."""
        for lock in self._locks:
            with suppress(OSError):
                lock.close()
        self._locks.clear()


def free_port(
    host: str,
    wished: int,
    say: Callable[[str], None],
    *,
    what: str,
    taken: Collection[int] = (),
    holds: PortHolds | None = None,
) -> int:
    """The first free port from `wished` on, not one of `taken`; says so in a line when it is another one.

    With `holds` it is held from now on, and one that another stack holds counts as taken.
    """
    for port in range(wished, min(wished + _TRIES, 65536)):
        if port not in taken and _is_free(host, port) and (holds is None or holds.take(port)):
            if port != wished:
                say(f"{what}: port {wished} is taken, using {port}")
            return port
    raise Unavailable(what, f"no free port from {wished} on", "free one, or choose another first port")


def _is_free(host: str, port: int) -> bool:
    # Some servers listen on all addresses, which binding to one of them does not always notice.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            return False
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
