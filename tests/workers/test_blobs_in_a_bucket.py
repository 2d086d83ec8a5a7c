"""Register, train in a real child, predict and judge with every blob in a bucket."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from backend.actions.judge_candidate import judge_candidate
from backend.actions.open_run import open_run
from backend.clock import utc_now
from backend.settings import Settings
from backend.store.open_blobs import open_blobs
from backend.store.tables import Model, Run
from backend.wakeups import Wakeups
from mpamatch.domain.policy import Policy
from tests.builders import Installation, installation
from tests.mpamatch.tissue import quick_recipe
from workers.champion import LoadedModels
from workers.jobs.predict import predict_due
from workers.jobs.train import PAUSE_S, train_due
from workers.parts import Parts

pytestmark = [pytest.mark.database, pytest.mark.torch, pytest.mark.processes]
LATER = datetime(2100, 1, 1, tzinfo=UTC)
POLICY = Policy(debounce_s=0, retrain_after_tiles=2)


def _settings(state: Path, database_url: str, redis_url: str, values: dict[str, Any]) -> Settings:
    return Settings(state=state, database_url=database_url, broker_url=redis_url, device="cpu", threads=1, **values)


def _parts(made: Installation, settings: Settings) -> Parts:
    return Parts(settings, made.database, made.blobs, made.keys, Wakeups(settings.require_broker_url()), "a-worker")


def _open_small_run(made: Installation) -> int:
    run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is not None, decision.reasons
    with made.database.transaction() as session:
        session.get_one(Run, run.id).recipe = quick_recipe("supervised", steps_cold=3).to_json()
    return run.id


def test_the_loop_goes_round_with_every_blob_in_a_bucket_and_waits_while_it_is_away(
    database_url: str, redis_url: str, tmp_path: Path, s3_settings: dict[str, Any]
) -> None:
    state = tmp_path / "state"
    settings = _settings(state, database_url, redis_url, {**s3_settings, "blobs_timeout_s": 1.0})
    blobs = open_blobs(settings)
    made = installation(database_url, tmp_path, train=4, audit=2, masked=True, policy=POLICY, blobs=blobs)
    run_id = _open_small_run(made)

    away: Any = open_blobs(settings.model_copy(update={"blobs_endpoint": "http://127.0.0.1:9"}))
    parts = Parts(settings, made.database, away, made.keys, Wakeups(redis_url), "a-worker")
    assert train_due(parts, stop=lambda: False) == 1
    with made.database.transaction() as session:
        run = session.get_one(Run, run_id)
        assert (run.state, run.crashes, run.lease_holder) == ("queued", 0, None)

    parts = _parts(made, settings)
    assert train_due(parts, stop=lambda: False) == 0, "it waits a while before it is tried again"
    parts = replace(parts, now=lambda: utc_now() + timedelta(seconds=PAUSE_S))
    assert train_due(parts, stop=lambda: False) == 1
    with made.database.transaction() as session:
        run = session.get_one(Run, run_id)
        assert (run.state, run.problem) == ("judging", None)
        model = session.scalars(select(Model).where(Model.run_id == run_id)).one()
        assert model.blob is not None
        assert blobs.exists(model.blob)
    (folder,) = (state / "runs").iterdir()
    assert not (folder / "blobs").exists(), "files that were fetched for the run go with its end"
    assert list((state / "cache" / "blobs").iterdir()), "and are there for the next one"

    assert predict_due(parts, LoadedModels(blobs, state / "cache" / "models", "cpu"), stop=lambda: False) > 0
    assert judge_candidate(made.database, blobs, run_id, now=LATER) is not None
    with made.database.transaction() as session:
        assert session.get_one(Run, run_id).state == "done"
    assert not (tmp_path / "blobs").exists()
