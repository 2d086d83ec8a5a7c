"""Refuses requests that asked for a name which is none of ours: DNS rebinding ends here.

The tokens and signatures behind it are no cookies, so a rebound page has none to send; still it must not learn what is
here, nor try secrets from the inside. Probes of orchestrators ask for an address that is no name of ours, and what they
are told is no secret: health is left out.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.api.errors import problem
from backend.host_names import asked_name

OPEN_TO_ALL = ("/health", "/health/live", "/health/ready")


class KnownHosts:
    """Passes on what asked for one of ``names``; answers 421 to the rest."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self.app = app
        self.names = names
        self._refuse = problem(
            421,
            "Not served under this name",
            "this installation answers under the names it was told only",
            item="Host",
            remedy="use the address that `mpamatch status` prints, or add the name to MPAMATCH_HOSTS",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_TO_ALL:
            name = asked_name(Headers(scope=scope).get("host", ""))
            if name not in self.names:
                await self._refuse(scope, receive, send)
                return
        await self.app(scope, receive, send)
