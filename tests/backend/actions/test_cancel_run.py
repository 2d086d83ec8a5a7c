from datetime import UTC, datetime
from pathlib import Path

import pytest

from backend.actions.cancel_run import cancel_run
from backend.actions.open_run import open_run
from backend.settings import Settings
from backend.store import models, projects, runs
from backend.store.tables import Model, Run
from backend.wakeups import Wakeups
from mpamatch.domain.policy import Policy
from mpamatch.errors import Conflict
from tests.builders import Installation, add_model, installation
from workers.jobs import train
from workers.parts import Parts

pytestmark = pytest.mark.database
NOW = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(
        database_url, tmp_path, train=4, audit=2, masked=True, policy=Policy(debounce_s=0, retrain_after_tiles=2)
    )


def _queued(made: Installation) -> Run:
    run, decision = open_run(made.database, made.blobs, made.project_id, now=NOW)
    assert run is not None, decision.reasons
    return run


def _cancel(made: Installation) -> Run:
    with made.database.transaction() as session:
        return cancel_run(session, projects.get(session, made.project_id), None, now=NOW, actor="test")


def test_a_run_that_waits_ends_at_once_and_cannot_be_cancelled_twice(made: Installation) -> None:
    _queued(made)
    assert _cancel(made).state == "cancelled"
    with pytest.raises(Conflict, match="not open"):
        _cancel(made)


def test_a_candidate_whose_run_is_cancelled_is_never_judged(made: Installation) -> None:
    run = _queued(made)
    with made.database.transaction() as session:
        for state in ("training", "judging"):
            runs.move(session, session.get_one(Run, run.id), state, actor="test")
    candidate = add_model(made, run.version, run_id=run.id)
    assert _cancel(made).state == "cancelled"
    with made.database.transaction() as session:
        assert session.get_one(Model, candidate.id).state == "rejected"
        assert projects.champion(session, projects.get(session, made.project_id)).kind == "blank"


def test_a_training_that_ends_before_it_sees_the_wish_hands_in_no_model(
    made: Installation, redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = _queued(made)
    monkeypatch.setattr(train, "pack_model", lambda folder: b"a model")
    folder = runs.folder(made.folder, run)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    settings = Settings(state=made.folder, database_url=database_url, broker_url=redis_url)
    parts = Parts(settings, made.database, made.blobs, made.keys, Wakeups(redis_url), "w", now=lambda: NOW)
    with made.database.transaction() as session:
        held = runs.claim_training(session, now=NOW, holder="w", lease_s=60)
        assert held is not None
    assert _cancel(made).state == "training", "its worker ends it"
    train._keep_candidate(parts, held, folder)
    with made.database.transaction() as session:
        assert session.get_one(Run, run.id).state == "cancelled"
        assert models.candidate_of(session, run.id) is None
