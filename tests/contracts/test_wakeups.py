"""Every wake-up that can be sent has a job that hears it, on a queue that some worker serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from celery import Celery

from backend import wakeups
from backend.commands import stack
from backend.settings import Settings
from workers.celery_app import add_tasks, make_celery


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Celery:
    """The workers' application; it connects to nothing before its first job."""
    state = tmp_path_factory.mktemp("state")
    settings = Settings(
        state=state,
        database_url=f"postgresql+psycopg://nobody@/nothing?host={state}",
        broker_url=f"redis+socket://{state}/nobody.sock",
    )
    made = make_celery(settings)
    add_tasks(made, settings)
    return made


def sent_names() -> set[str]:
    return {value for name, value in vars(wakeups).items() if name.isupper() and str(value).startswith("mpamatch.")}


def heard_names(app: Celery) -> set[str]:
    return {name for name in app.tasks if name.startswith("mpamatch.")}


def test_every_wake_up_is_heard_and_every_job_can_be_woken(app: Celery) -> None:
    assert sent_names() == heard_names(app) == set(wakeups.QUEUES)


def test_every_queue_has_a_worker(app: Celery) -> None:
    assert set(wakeups.QUEUES.values()) == set(stack.QUEUES)
    assert app.conf.task_default_queue in stack.QUEUES


def test_the_schedule_wakes_only_what_is_heard(app: Celery) -> None:
    assert {entry["task"] for entry in app.conf.beat_schedule.values()} <= heard_names(app)


def test_messages_are_held_one_at_a_time_acknowledged_late_and_given_again_after_half_a_day(app: Celery) -> None:
    """What this does is seen in tests/workers/test_delivery.py. The solo pool alone would fetch and acknowledge like
    this too, so there a changed option would not show; with another pool it would cost computing time."""
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.task_acks_late is True
    assert app.conf.task_ignore_result is True
    assert app.conf.broker_connection_retry_on_startup is True
    with app.connection_for_read() as connection:
        assert connection.transport_options["visibility_timeout"] == wakeups.VISIBILITY_TIMEOUT_S == 12 * 3600


def test_a_message_carries_ids_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent: list[tuple[str, list[object]]] = []
    sender = wakeups.Wakeups(f"redis+socket://{tmp_path}/nobody.sock")
    expiries: list[int] = []

    def send(name: str, arguments: list[object], *, queue: str, retry: bool, expires: int) -> None:
        sent.append((name, arguments))
        expiries.append(expires)

    monkeypatch.setattr(sender._app, "send_task", send)
    sender.sync(3, full=True)
    sender.predict()
    sender.train()
    assert sent == [(wakeups.SYNC, [3, True]), (wakeups.PREDICT, []), (wakeups.TRAIN, [])]
    assert set(expiries) == {wakeups.EXPIRES_S}


def test_a_broker_that_is_away_does_not_fail_the_sender(tmp_path: Path) -> None:
    wakeups.Wakeups(f"redis+socket://{tmp_path}/nobody.sock").predict()
