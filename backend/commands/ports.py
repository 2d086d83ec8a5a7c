"""A free port: the wished one, or the next that nobody holds."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection

from mpamatch.errors import Unavailable

_TRIES = 100


def free_port(host: str, wished: int, say: Callable[[str], None], *, what: str, taken: Collection[int] = ()) -> int:
    """The first free port from `wished` on, not one of `taken`; says so in a line when it is another one."""
    for port in range(wished, min(wished + _TRIES, 65536)):
        if port not in taken and _is_free(host, port):
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
