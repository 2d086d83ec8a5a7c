"""A door before the real Label Studio that can be told to misbehave, and that tells when a call has been carried out.

with FaultyDoor(real_url) as door:
    door.fault = lambda call: Fault(status=500)
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx

_PASSED_ON = ("authorization", "content-type", "accept")


@dataclass(frozen=True)
class Call:
    """One request as it comes in."""

    method: str
    path: str


@dataclass(frozen=True)
class Fault:
    """What happens to a call: an answer of our own, a wait before it, half of the real answer, or another body."""

    status: int | None = None
    wait_s: float = 0.0
    half: bool = False
    body: bytes | None = None
    dropped: bool = False


class FaultyDoor:
    """Use as a context manager; ``url`` is what the product is told, ``carried_out`` is called before the answer."""

    def __init__(self, real_url: str) -> None:
        self.fault: Callable[[Call], Fault | None] = lambda call: None
        self.carried_out: Callable[[Call], None] = lambda call: None
        self.calls: list[tuple[float, Call]] = []
        self._http = httpx.Client(base_url=real_url, timeout=90, trust_env=False)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FaultyDoor:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._http.close()

    def pass_on(self, call: Call, body: bytes, headers: dict[str, str]) -> httpx.Response:
        return self._http.request(call.method, call.path, content=body, headers=headers)


def _handler(door: FaultyDoor) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _any(self) -> None:
            call = Call(self.command, self.path)
            door.calls.append((time.monotonic(), call))
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            fault = door.fault(call) or Fault()
            time.sleep(fault.wait_s)
            if fault.dropped:
                self.close_connection = True
                return
            if fault.status is not None:
                self._answer(fault.status, fault.body or b'{"detail": "as the test wants it"}', "application/json")
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() in _PASSED_ON}
            real = door.pass_on(call, body, headers)
            door.carried_out(call)
            content = real.content if fault.body is None else fault.body
            content = content[: len(content) // 2] if fault.half else content
            self._answer(real.status_code, content, real.headers.get("content-type", "application/json"))

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _any

        def _answer(self, status: int, content: bytes, kind: str) -> None:
            try:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            except OSError:
                pass  # the caller was killed meanwhile

        def log_message(self, *arguments: Any) -> None:
            """Nothing: the test looks at ``calls``."""

    return Handler
