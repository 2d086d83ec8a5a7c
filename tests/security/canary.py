"""A server that nobody should ever ask: it remembers who did. One of them can play a Label Studio that sends on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Canary:
    """Its address, and the path of every request that came."""

    url: str
    asked: list[str] = field(default_factory=list)


@contextmanager
def canary(*, send_on_to: str | None = None, answer: bytes = b"secret of the inside") -> Iterator[Canary]:
    """Answers ``answer`` to everything, or sends everything on to another address."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            seen.asked.append(self.path)
            self.send_response(302 if send_on_to else 200)
            if send_on_to:
                self.send_header("location", send_on_to)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    seen = Canary(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
