"""What one address serves: the API and the dashboard beside each other, on the same connections."""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from backend.api.app import create_app
from backend.api.headers import SafeHeaders
from backend.api.hosts import KnownHosts
from backend.api.observed import Note, Observed
from backend.dashboard.app import create_dashboard, owns
from backend.settings import Settings


class Site:
    """Pages to the dashboard, all else (and starting and stopping) to the API; every request is observed.

    Neither of the two knows the other.
    """

    def __init__(self, api: ASGIApp, dashboard: ASGIApp, *, names: frozenset[str], note: Note) -> None:
        self.api, self.dashboard = api, dashboard
        self._guarded_api = SafeHeaders(KnownHosts(api, names))
        self._observed = Observed(self._pass_on, note=note)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._observed(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        pages = scope["type"] == "http" and owns(scope["path"])
        await (self.dashboard if pages else self._guarded_api)(scope, receive, send)


def create_site(settings: Settings) -> Site:
    """Both on a database and a broker that run already. Raises Unavailable when nothing is configured."""
    api = create_app(settings)
    parts = api.state.parts
    dashboard = create_dashboard(
        settings=settings, database=parts.database, blobs=parts.blobs, keys=parts.keys, wakeups=parts.wakeups
    )
    return Site(api, dashboard, names=settings.host_names, note=api.state.metrics.note)
