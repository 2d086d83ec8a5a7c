"""The regular look wakes whom it must, frees what people left and forgets what nobody needs any more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from backend.actions.rank_queue import rank_queue
from backend.settings import Settings
from backend.store import browsers, leases, projects, replies, tokens
from backend.store.tables import QueueEntry, Reply, Run, Session
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from tests.builders import Installation, installation, predict_all
from workers.jobs.sweep import sweep
from workers.parts import Parts

pytestmark = pytest.mark.database
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Counted:
    """Wake-ups that are only counted."""

    def __init__(self) -> None:
        self.trains = 0

    def sync(self, project_id: int, *, full: bool = False) -> None: ...
    def predict(self) -> None: ...
    def train(self) -> None:
        self.trains += 1


def _queue_run(made: Installation, project_id: int) -> None:
    values = {"trigger": "manual", "reasons": [], "recipe": {}, "recipe_hash": "", "snapshot_blob": ""}
    with made.database.transaction() as session:
        session.add(Run(project_id=project_id, number=1, version=f"m{project_id}", state="queued", **values))


@pytest.mark.parametrize("due", [0, 1, 2])
def test_as_many_train_workers_are_woken_as_runs_wait(database_url: str, tmp_path: Path, due: int) -> None:
    made = installation(database_url, tmp_path, train=1, audit=1)
    with made.database.transaction() as session:
        classes = ClassSet.from_names(["background", "gland"])
        other = projects.create(session, title="Other", classes=classes, policy=Policy(), seed=2).id
    for project_id in (made.project_id, other)[:due]:
        _queue_run(made, project_id)
    counted: Any = Counted()
    sweep(Parts(Settings(state=tmp_path), made.database, made.blobs, made.keys, counted, "w", now=lambda: NOW))
    assert counted.trains == due


class Silent:
    """Wake-ups that nobody needs."""

    def sync(self, project_id: int, *, full: bool = False) -> None: ...
    def predict(self) -> None: ...
    def train(self) -> None: ...


def test_a_lease_a_session_and_a_reply_end_by_themselves(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path, train=2, audit=0)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    rank_queue(made.database, made.project_id)
    with made.database.transaction() as session:
        leases.claim(session, made.project_id, holder="a", count=2, now=NOW, lease_s=60)
        browsers.begin(session, "a-nonce", token_id=None, now=NOW)
        made_token = tokens.create(
            session, name="x", role="viewer", project_id=None, expires_at=None, now=NOW, actor="test"
        )
        replies.take(session, token_id=made_token.row.id, idempotency_key="k", request_digest=bytes(32), now=NOW)
    wakeups: Any = Silent()
    settings = Settings(state=tmp_path, session_hours=12)

    def left(after: timedelta) -> tuple[int, int, int]:
        parts = Parts(settings, made.database, made.blobs, made.keys, wakeups, "test:1:1.0", now=lambda: NOW + after)
        sweep(parts)
        with made.database.transaction() as session:
            held = session.scalar(select(func.count()).select_from(QueueEntry).where(QueueEntry.state == "leased"))
            kept = [session.scalar(select(func.count()).select_from(table)) for table in (Session, Reply)]
        return (held or 0, kept[0] or 0, kept[1] or 0)

    assert left(timedelta(seconds=30)) == (2, 1, 1)
    assert left(timedelta(seconds=61)) == (0, 1, 1)
    assert left(timedelta(hours=13)) == (0, 0, 1)
    assert left(timedelta(hours=25)) == (0, 0, 0)
