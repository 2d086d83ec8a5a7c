import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from backend.actions.open_run import open_run, request_run
from backend.store import projects, runs, schedules
from backend.store.schedules import Plan
from backend.store.tables import Event, Run, Schedule
from mpamatch.domain.cron import Cron
from mpamatch.domain.policy import Policy
from mpamatch.domain.quiet_hours import QuietHours
from mpamatch.errors import Conflict
from tests.builders import Installation, installation

pytestmark = pytest.mark.database
SET_AT = datetime(2026, 10, 24, 12, tzinfo=UTC)
DUE = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
NIGHTLY = Plan(Cron("30 2 * * *", "Europe/Berlin"), zone="Europe/Berlin")


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(database_url, tmp_path, train=4, audit=2, masked=True, policy=Policy(retrain_by_labels=False))


def _put(made: Installation, plan: Plan = NIGHTLY, now: datetime = SET_AT) -> Schedule:
    with made.database.transaction() as session:
        return schedules.put(session, projects.get(session, made.project_id), plan, now=now, actor="test")


def _row(made: Installation) -> Schedule:
    with made.database.transaction() as session:
        row = schedules.of(session, made.project_id)
        assert row is not None
        return row


def _events(made: Installation) -> list[str]:
    with made.database.transaction() as session:
        return list(session.scalars(select(Event.what).where(Event.subject.like("schedule:%")).order_by(Event.id)))


def _look(made: Installation, now: datetime) -> Run | None:
    return open_run(made.database, made.blobs, made.project_id, now=now)[0]


def _done(made: Installation, run: Run) -> None:
    with made.database.transaction() as session:
        for state in ("training", "judging", "done"):
            runs.move(session, session.get_one(Run, run.id), state, actor="test")


def test_a_plan_comes_back_as_it_was_set(made: Installation) -> None:
    quiet = QuietHours.parse("22:00-06:00", "Europe/Berlin")
    plan = Plan(Cron("@daily", "Europe/Berlin"), quiet, True, "Europe/Berlin")
    assert schedules.plan_of(_put(made, plan)) == plan
    assert schedules.plan_of(_put(made, Plan(quiet=quiet, zone="Europe/Berlin"))).cron is None
    assert _row(made).next_due_at is None
    assert _events(made) == ["schedule set", "schedule set"]


def test_two_looks_at_the_same_moment_open_one_run_and_answer_the_period_once(made: Installation) -> None:
    _put(made)
    gate, opened = threading.Barrier(4), []

    def look() -> None:
        gate.wait()
        opened.append(_look(made, DUE))

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([run for run in opened if run is not None]) == 1
    assert _events(made) == ["schedule set", "schedule fired"]
    row = _row(made)
    assert (row.last_outcome, row.last_fired_at) == ("run 1", DUE)
    assert row.next_due_at == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_a_period_that_somebody_else_answered_is_not_answered_again(made: Installation) -> None:
    stale = _put(made)
    with made.database.transaction() as session:
        row = session.get_one(Schedule, stale.id)
        assert schedules.settle(session, row, now=DUE, outcome="run 1", fired=True)
    with made.database.transaction() as session:
        session.add(stale)  # as a look had read it before
        assert not schedules.settle(session, stale, now=DUE, outcome="run 2", fired=True)
        session.expunge(stale)
    assert _row(made).last_outcome == "run 1"


def test_a_lost_race_for_a_period_leaves_no_run(made: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(made)
    monkeypatch.setattr(schedules, "settle", lambda *arguments, **values: False)
    with pytest.raises(Conflict, match="answered or changed"):
        _look(made, DUE)
    with made.database.transaction() as session:
        assert runs.latest(session, made.project_id) is None


def test_nights_without_news_are_skipped_with_their_reason_and_fill_no_log(made: Installation) -> None:
    _put(made)
    run = _look(made, DUE)
    assert run is not None
    _done(made, run)
    for night in range(1, 4):
        assert _look(made, DUE + timedelta(days=night, hours=2)) is None
    row = _row(made)
    assert row.last_outcome == "skipped: nothing new since run 1"
    assert row.last_outcome_at == DUE + timedelta(days=3, hours=2)
    assert row.last_fired_at == DUE
    assert _events(made) == ["schedule set", "schedule fired", "schedule skipped"]


def test_the_labels_of_a_failed_run_are_tried_again_the_next_night(made: Installation) -> None:
    _put(made)
    first = _look(made, DUE)
    assert first is not None
    with made.database.transaction() as session:
        runs.move(session, session.get_one(Run, first.id), "failed", actor="test")
    assert _look(made, DUE + timedelta(hours=5)) is None, "not at once"
    second = _look(made, DUE + timedelta(days=1, hours=1))
    assert second is not None
    assert second.trigger == "schedule"


def test_a_run_by_hand_answers_the_period_that_is_due(made: Installation) -> None:
    _put(made, Plan(NIGHTLY.cron, always=True, zone="Europe/Berlin"))
    with made.database.transaction() as session:
        request_run(session, projects.get(session, made.project_id), by="manual")
    run = _look(made, DUE)
    assert run is not None
    assert run.trigger == "manual"
    _done(made, run)
    assert _look(made, DUE + timedelta(minutes=1)) is None


def test_changing_only_the_quiet_hours_leaves_a_period_that_waits(made: Installation) -> None:
    _put(made)
    later = DUE + timedelta(hours=3)
    _put(made, Plan(NIGHTLY.cron, QuietHours.parse("00:00-01:00", "Europe/Berlin"), zone=NIGHTLY.zone), now=later)
    assert _row(made).next_due_at == DUE
    assert _look(made, later) is not None
    _put(made, Plan(Cron("45 2 * * *", NIGHTLY.zone), zone=NIGHTLY.zone), now=later)
    assert _row(made).next_due_at > later, "another clock begins anew"
