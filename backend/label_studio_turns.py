"""Runs inside Label Studio's own process, as its ``sitecustomize``: the next task is asked for one at a time.

On SQLite Label Studio finds a task that nobody has open and locks it afterwards, with nothing around both: people who
press in the same moment get the same one. On PostgreSQL it does both in a transaction, and needs none of this.

Nothing of ours is imported: the file is copied beside that server, whose environment does not have us.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

Environ = dict[str, Any]
Application = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def one_at_a_time(application: Application) -> Application:
    """The same application, in which requests for the next task take turns; a view has run when its call returns."""
    turn = threading.Lock()

    def taking_turns(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not asks_for_next(environ):
            return application(environ, start_response)
        with turn:
            return application(environ, start_response)

    return taking_turns


def asks_for_next(environ: Environ) -> bool:
    """Whether a request is the label stream's: the page's action, or the API's."""
    path = str(environ.get("PATH_INFO", "")).rstrip("/")
    if path.endswith("/api/dm/actions"):
        return "id=next_task" in str(environ.get("QUERY_STRING", "")).split("&")
    parts = path.split("/")
    return parts[-4:-2] == ["api", "projects"] and parts[-1] == "next"


def install() -> None:
    """Wrap what Django's server is about to serve."""
    from django.core.servers import basehttp

    made = basehttp.get_internal_wsgi_application
    basehttp.get_internal_wsgi_application = lambda: one_at_a_time(made())


if __name__ == "sitecustomize":
    install()
