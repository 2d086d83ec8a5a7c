from datetime import UTC, datetime
from pathlib import Path

import pytest

from backend.actions.open_run import open_run
from backend.settings import Settings
from backend.store import projects, runs
from backend.store.tables import Run
from backend.wakeups import Wakeups
from mpamatch.domain.policy import Policy
from tests.builders import installation
from workers.jobs.train import train_due
from workers.parts import Parts

pytestmark = pytest.mark.database
LATER = datetime(2100, 1, 1, tzinfo=UTC)


def test_a_run_whose_start_model_is_lost_fails_at_once_and_says_so(
    database_url: str, redis_url: str, tmp_path: Path
) -> None:
    made = installation(
        database_url, tmp_path, train=4, audit=2, masked=True, policy=Policy(debounce_s=0, retrain_after_tiles=2)
    )
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        champion.blob = made.blobs.put(b"weights that will be lost")
    run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is not None, decision.reasons
    made.blobs.path(champion.blob).unlink()
    settings = Settings(state=tmp_path, database_url=database_url, broker_url=redis_url)
    parts = Parts(settings, made.database, made.blobs, made.keys, Wakeups(redis_url), "a-worker")
    assert train_due(parts, stop=lambda: False) == 1
    with made.database.transaction() as session:
        ended = session.get_one(Run, run.id)
        assert ended.state == "failed"
        assert "missing" in (ended.problem or "")
        assert runs.open_run(session, made.project_id) is None
