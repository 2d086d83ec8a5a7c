from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from backend.actions.open_run import open_run, request_run
from backend.store import masks, models, projects, runs
from backend.store.tables import Model, Run
from mpamatch.domain.policy import Policy
from mpamatch.errors import Conflict
from tests.builders import Installation, add_images, installation

pytestmark = pytest.mark.database
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = NOW + timedelta(days=1000)  # later than any row that the database's own clock wrote


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(
        database_url, tmp_path, train=4, audit=2, masked=True, policy=Policy(debounce_s=0, retrain_after_tiles=6)
    )


def _queued(made: Installation) -> Run:
    run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is not None, decision.reasons
    return run


def test_a_project_has_one_open_run_whoever_asks(made: Installation) -> None:
    first = _queued(made)
    again, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert again is None
    assert "a run is open" in decision.reasons[0]
    with pytest.raises(IntegrityError), made.database.transaction() as session:
        session.add(
            Run(
                project_id=made.project_id,
                number=99,
                trigger="manual",
                reasons=[],
                recipe={},
                recipe_hash="",
                snapshot_blob=first.snapshot_blob,
                version="x",
                state="queued",
            )
        )


def _end(made: Installation, run: Run, *states: str) -> None:
    with made.database.transaction() as session:
        for state in states:
            runs.move(session, session.get_one(Run, run.id), state, actor="test")


def test_who_waits_for_a_training_is_not_given_an_adaptation(made: Installation) -> None:
    first = _queued(made)
    with made.database.transaction() as session:
        session.get_one(Run, first.id).trigger = runs.ADAPT
    _end(made, first, "cancelled")
    with made.database.transaction() as session:
        request_run(session, projects.get(session, made.project_id), by="manual")
    second = _queued(made)
    with made.database.transaction() as session:
        for adapts, wanted in ((True, first), (False, second)):
            found = runs.first_after(session, made.project_id, 0, adapts=adapts)
            assert found is not None
            assert found.id == wanted.id
        assert runs.first_after(session, made.project_id, first.id, adapts=True) is None


def test_an_adapted_champion_is_no_round_of_the_queue(made: Installation) -> None:
    with made.database.transaction() as session:
        blob = made.blobs.put(b"weights")
        for version, metrics in (("m1", {}), ("m2", {"adapted": {"from": "m1"}})):
            values = {"version": version, "kind": "trained", "state": "retired", "blob": blob, "metrics": metrics}
            session.add(Model(project_id=made.project_id, **values))
        session.flush()
        assert models.rounds(session, made.project_id) == 1


def _first_runs(made: Installation) -> set[int | None]:
    with made.database.transaction() as session:
        return {m.first_run_id for m in masks.current(session, made.project_id)}


def test_labels_made_meanwhile_go_to_the_next_run_and_none_is_counted_twice(made: Installation) -> None:
    first = _queued(made)
    add_images(made, train=6, audit=0, masked=True, first=100)
    _end(made, first, "training", "judging", "done")
    second = _queued(made)
    assert second.number == 2
    assert open_run(made.database, made.blobs, made.project_id, now=LATER)[0] is None
    _end(made, second, "training", "judging", "done")
    third, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert third is None
    assert decision.reasons[0].startswith("0 tiles changed")
    assert _first_runs(made) == {first.id, second.id}


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_labels_of_a_run_without_a_model_count_again_with_one_new_change(made: Installation, state: str) -> None:
    first = _queued(made)
    _end(made, first, state)
    again, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert again is None, "it would fail again at once, and again"
    assert decision.reasons[0].startswith("6 tiles of runs that ended without a model")
    add_images(made, train=1, audit=0, masked=True, first=100)
    second = _queued(made)
    assert _first_runs(made) == {second.id}, "the ledger names the run that may learn from them"
    _end(made, second, state)
    add_images(made, train=1, audit=0, masked=True, first=101)
    again, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert again is None
    assert decision.reasons[1].startswith("the next run starts with 2 tiles more that changed")
    add_images(made, train=1, audit=0, masked=True, first=102)
    third = _queued(made)
    _end(made, third, "training", "judging", "done")
    with made.database.transaction() as session:
        assert runs.without_model_in_row(session, made.project_id) == 0
    assert _first_runs(made) == {third.id}


def test_a_request_by_hand_waits_for_the_open_run_and_is_then_taken(made: Installation) -> None:
    run = _queued(made)
    with made.database.transaction() as session:
        request_run(session, projects.get(session, made.project_id), by="manual")
    assert open_run(made.database, made.blobs, made.project_id, now=LATER)[0] is None
    with made.database.transaction() as session:
        runs.move(session, session.get_one(Run, run.id), "cancelled", actor="test")
    second, _ = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert second is not None
    assert second.trigger == "manual"
    assert made.project().requested_run is None


def test_a_silent_holder_is_fenced_off_by_the_next_attempt(made: Installation) -> None:
    _queued(made)
    with made.database.transaction() as session:
        first = runs.claim_training(session, now=NOW, holder="a", lease_s=60)
        assert first is not None
        old = first.attempt
    with made.database.transaction() as session:
        assert runs.claim_training(session, now=NOW + timedelta(seconds=59), holder="b", lease_s=60) is None
    with made.database.transaction() as session:
        second = runs.claim_training(session, now=NOW + timedelta(seconds=61), holder="b", lease_s=60)
        assert second is not None
        assert (second.attempt, second.crashes) == (old + 1, 1)
    with pytest.raises(Conflict, match="newer attempt"), made.database.transaction() as session:
        runs.heartbeat(session, second.id, attempt=old, now=NOW, lease_s=60, progress=None)
    with pytest.raises(Conflict, match="newer attempt"), made.database.transaction() as session:
        runs.held(session, second.id, old)


def test_a_heartbeat_renews_the_lease_and_tells_of_a_cancel(made: Installation) -> None:
    _queued(made)
    with made.database.transaction() as session:
        run = runs.claim_training(session, now=NOW, holder="a", lease_s=60)
        assert run is not None
    with made.database.transaction() as session:
        beat = {"attempt": run.attempt, "now": NOW + timedelta(seconds=50), "lease_s": 60, "progress": {"step": 5}}
        assert runs.heartbeat(session, run.id, **beat) is False
        session.get_one(Run, run.id).cancel_requested = True
    with made.database.transaction() as session:
        assert runs.heartbeat(session, run.id, **beat) is True
        assert session.get_one(Run, run.id).lease_until == NOW + timedelta(seconds=110)


def test_dead_holders_of_this_machine_free_their_run_at_once(made: Installation) -> None:
    _queued(made)
    with made.database.transaction() as session:
        runs.claim_training(session, now=NOW, holder="dead", lease_s=60)
    with made.database.transaction() as session:
        assert runs.release_dead(session, now=NOW, alive=lambda holder: True) == 0
        assert runs.release_dead(session, now=NOW, alive=lambda holder: False) == 1
    with made.database.transaction() as session:
        assert runs.due(session, now=NOW + timedelta(seconds=1))
        again = runs.claim_training(session, now=NOW + timedelta(seconds=1), holder="b", lease_s=60)
        assert again is not None


def test_a_cancelled_run_whose_worker_died_ends_all_the_same(made: Installation) -> None:
    run = _queued(made)
    with made.database.transaction() as session:
        runs.claim_training(session, now=NOW, holder="w", lease_s=60)
    with made.database.transaction() as session:
        session.get_one(Run, run.id).cancel_requested = True
        assert runs.end_cancelled(session, now=NOW) == 0  # its worker may still notice by itself
        assert runs.claim_training(session, now=NOW + timedelta(seconds=61), holder="v", lease_s=60) is None
        assert not runs.due(session, now=NOW + timedelta(seconds=61))
        assert runs.end_cancelled(session, now=NOW + timedelta(seconds=61)) == 1
        assert runs.open_run(session, made.project_id) is None
