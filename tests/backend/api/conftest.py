"""Two projects of one installation, and clients that hold tokens of every role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from backend.actions.rank_queue import rank_queue
from backend.settings import Settings
from backend.site import create_site
from backend.store import projects, tokens
from tests.builders import Installation, installation, predict_all

BASE = "http://127.0.0.1:9090"


@dataclass
class Api:
    """The running API over one project (`mine`) and another one (`theirs`) of the same installation."""

    mine: Installation
    theirs: Installation
    settings: Settings
    enter: Callable[..., TestClient]

    def client(self, role: tokens.Role | None = None, *, of: Installation | None = None) -> TestClient:
        """A client with a fresh token of a role; ``of`` limits it to that project. Without a role: no token."""
        client = self.enter(base_url=BASE, raise_server_exceptions=False)
        if role is not None:
            client.headers["Authorization"] = f"Bearer {self.token(role, of=of).token}"
        return client

    def token(self, role: tokens.Role, *, of: Installation | None = None) -> tokens.NewToken:
        with self.mine.database.transaction() as session:
            return tokens.create(
                session,
                name=role,
                role=role,
                project_id=None if of is None else of.project_id,
                expires_at=None,
                now=datetime.now(UTC),
                actor="test",
            )


def ranked(database_url: str, folder: Path, title: str) -> Installation:
    """A project of its own with a ranked queue that nobody holds."""
    made = installation(database_url, folder, train=5, audit=2, title=title)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    rank_queue(made.database, made.project_id)
    return made


@pytest.fixture
def api(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Api]:
    state = tmp_path / "state"
    mine, theirs = ranked(database_url, state, "Mine"), ranked(database_url, state, "Theirs")
    # A test client reads an answer to its end: a stream of events must have one.
    settings = Settings(state=state, database_url=database_url, broker_url=redis_url, event_stream_s=0.01)
    site = create_site(settings)
    with ExitStack() as stack:
        stack.enter_context(TestClient(site, base_url=BASE))  # opens and closes what the others share
        yield Api(mine, theirs, settings, lambda **options: TestClient(site, **options))
