"""The whole site, API and dashboard, over a database of the test's own; and a client that is signed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from backend.credentials import ensure_dashboard_token
from backend.settings import Settings
from backend.site import create_site
from tests.builders import Installation
from tests.dashboard_project import filled

BASE = "http://127.0.0.1:9090"


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return filled(database_url, tmp_path / "state")


@pytest.fixture
def visit(database_url: str, redis_url: str) -> Iterator[Callable[..., TestClient]]:
    """Make a browser on a state folder; `signed_in=False` for one that still stands at the door."""
    with ExitStack() as stack:

        def enter(state: Path, *, signed_in: bool = True, base: str = BASE, **settings: object) -> TestClient:
            site = create_site(Settings(state=state, database_url=database_url, broker_url=redis_url, **settings))  # type: ignore[arg-type]
            client = stack.enter_context(TestClient(site, base_url=base, raise_server_exceptions=False))
            client.follow_redirects = False
            if signed_in:
                assert client.post("/login", data={"token": ensure_dashboard_token(state)}).status_code == 303
            return client

        yield enter
