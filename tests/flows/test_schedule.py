"""A schedule in a running system: real beat, real Celery workers, real servers; only the workers' clock is moved.

A second project with a schedule of every minute is the witness: what it says was skipped proves that the workers have
looked at the moved clock, so that "no run" is seen and not merely not yet seen.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import select

from backend.store import projects, runs, schedules
from backend.store.schedules import Plan
from backend.store.tables import Model, Run
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.cron import Cron
from mpamatch.domain.policy import Policy
from mpamatch.domain.quiet_hours import QuietHours
from mpamatch.domain.recipe import Recipe
from tests.builders import Installation, add_images, installation
from tests.flows.stack import COMMAND

pytestmark = [pytest.mark.database, pytest.mark.processes, pytest.mark.timeout(420)]
BERLIN = "Europe/Berlin"


@dataclass
class Clocked:
    """An installation whose workers go by a clock of ours."""

    made: Installation
    witness_id: int
    folder: Path
    environment: dict[str, str]
    children: list[subprocess.Popen[bytes]] = field(default_factory=list)
    labels: int = 100

    @property
    def clock(self) -> Path:
        return self.folder / "clock"

    def start(self, queues: str) -> None:
        """A worker of ours for some queues."""
        name = f"worker-{queues.replace(',', '-')}"
        self.run([sys.executable, "-m", "tests.flows.clocked_worker", str(self.clock), queues], name)

    def run(self, command: list[str], name: str) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self.children.append(subprocess.Popen(command, stdout=log, stderr=log, env=self.environment))

    def stop(self) -> None:
        for child in self.children:
            child.terminate()
        for child in self.children:
            try:
                child.wait(20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def move(self, to: str) -> None:
        """Move the clock, and wait until the workers have looked at both projects by it.

        The looks take turns. The clock may have moved between the two of one round, so the witness is asked again.
        """
        moment = datetime.fromisoformat(to)
        self._set(moment)
        self.wait(f"a look at {to}", lambda: self._witnessed() == moment)
        with self.made.database.transaction() as session:
            row = schedules.of(session, self.witness_id)
            assert row is not None
            row.last_outcome_at, row.next_due_at = None, moment
        self.wait(f"another look at {to}", lambda: self._witnessed() == moment)

    def _set(self, moment: datetime) -> None:
        part = self.clock.with_suffix(".part")
        part.write_text(moment.astimezone(UTC).isoformat())
        part.replace(self.clock)

    def _witnessed(self) -> datetime | None:
        with self.made.database.transaction() as session:
            row = schedules.of(session, self.witness_id)
            return None if row is None else row.last_outcome_at

    def schedule(self, text: str, zone: str, *, at: str, quiet: str | None = None) -> None:
        """Set both schedules as of one moment, and the clock to it."""
        now = datetime.fromisoformat(at)
        hours = None if quiet is None else QuietHours.parse(quiet, zone)
        with self.made.database.transaction() as session:
            project, witness = (projects.get(session, n) for n in (self.made.project_id, self.witness_id))
            schedules.put(session, project, Plan(Cron(text, zone), hours, zone=zone), now=now, actor="test")
            schedules.put(session, witness, Plan(Cron("* * * * *", "UTC")), now=now, actor="test")
        self._set(now)

    def runs(self) -> list[Run]:
        with self.made.database.transaction() as session:
            return list(session.scalars(select(Run).order_by(Run.id)))

    def end(self) -> None:
        """End the open run as if it had been judged."""
        with self.made.database.transaction() as session:
            run = runs.open_run(session, self.made.project_id)
            assert run is not None
            for state in ("training", "judging", "done"):
                runs.move(session, run, state, actor="test")

    def finish(self) -> None:
        """End the open run, and label one more tile: there is something new again."""
        self.end()
        self.label()

    def label(self) -> None:
        add_images(self.made, train=1, audit=0, masked=True, first=self.labels)
        self.labels += 1

    def wait(self, what: str, look: Callable[[], object], limit_s: float = 60) -> None:
        deadline = time.monotonic() + limit_s
        while not look():
            said = "\n".join(log.read_text(errors="replace")[-3000:] for log in self.folder.glob("*.log"))
            assert time.monotonic() < deadline, f"{what} did not come\n{said}"
            time.sleep(0.1)


@contextmanager
def clocked(database_url: str, redis_url: str, folder: Path, queues: list[str]) -> Iterator[Clocked]:
    """Beat and one worker for each of the queues; all are stopped at the end."""
    policy = Policy(retrain_by_labels=False, train_profile="quick")
    made = installation(database_url, folder, train=6, audit=3, masked=True, policy=policy)
    with made.database.transaction() as session:
        classes = ClassSet.from_names(["background", "gland"])
        witness = projects.create(session, title="Witness", classes=classes, policy=Policy(), seed=1).id
    environment = {
        "MPAMATCH_STATE": str(folder),
        "MPAMATCH_DATABASE_URL": database_url,
        "MPAMATCH_BROKER_URL": redis_url,
        "MPAMATCH_SWEEP_S": "0.5",
        "MPAMATCH_THREADS": "1",
    }
    system = Clocked(made, witness, folder, {**os.environ, **environment})
    system._set(datetime(2026, 1, 1, tzinfo=UTC))
    try:
        for names in queues:
            system.start(names)
        system.run([*COMMAND, "worker", "--beat"], "beat")
        yield system
    finally:
        system.stop()


@pytest.fixture
def system(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[Clocked]:
    """Beat and the io worker: runs are opened and stay in the queue."""
    with clocked(database_url, redis_url, tmp_path, ["io"]) as found:
        yield found


def test_the_autumn_hour_that_comes_twice_fires_once(system: Clocked) -> None:
    system.schedule("30 2 * * *", BERLIN, at="2026-10-24T12:00+02:00")
    system.move("2026-10-25T02:29+02:00")
    assert system.runs() == []
    system.move("2026-10-25T02:30+02:00")
    assert [run.trigger for run in system.runs()] == ["schedule"]
    system.finish()
    for moment in ("2026-10-25T02:00+01:00", "2026-10-25T02:30+01:00", "2026-10-26T02:29+01:00"):
        system.move(moment)
        assert len(system.runs()) == 1, moment
    system.move("2026-10-26T02:30+01:00")
    assert len(system.runs()) == 2


def test_the_spring_hour_that_does_not_exist_fires_at_the_jump_and_once(system: Clocked) -> None:
    system.schedule("30 2 * * *", BERLIN, at="2026-03-28T12:00+01:00")
    system.move("2026-03-29T01:59+01:00")
    assert system.runs() == []
    system.move("2026-03-29T03:00+02:00")
    (run,) = system.runs()
    assert run.trigger == "schedule"
    assert "2026-03-29 01:00 UTC" in run.reasons[0]
    system.finish()
    for moment in ("2026-03-29T03:30+02:00", "2026-03-30T02:29+02:00"):
        system.move(moment)
        assert len(system.runs()) == 1, moment
    system.move("2026-03-30T02:30+02:00")
    assert len(system.runs()) == 2


def test_three_missed_nights_fire_once_and_quiet_hours_put_a_period_off(system: Clocked) -> None:
    system.schedule("30 2 * * *", BERLIN, at="2026-06-01T12:00+02:00", quiet="01:00-05:00")
    system.move("2026-06-04T03:00+02:00")
    assert system.runs() == [], "the quiet hours are not over"
    system.move("2026-06-04T05:00+02:00")
    (run,) = system.runs()
    assert "3 periods passed and count as one" in run.reasons[0]
    system.finish()
    system.move("2026-06-04T20:00+02:00")
    assert len(system.runs()) == 1


def test_a_period_without_news_is_skipped_and_one_during_a_run_fires_once_at_its_end(system: Clocked) -> None:
    system.schedule("0 * * * *", "UTC", at="2026-06-01T12:30+00:00")
    system.move("2026-06-01T13:00+00:00")
    assert len(system.runs()) == 1
    system.label()
    for moment in ("2026-06-01T14:00+00:00", "2026-06-01T15:00+00:00"):
        system.move(moment)
        assert len(system.runs()) == 1, "its run is still open"
    system.end()
    system.wait("the run after it", lambda: len(system.runs()) == 2)
    assert "2 periods passed" in system.runs()[1].reasons[0]
    system.label()  # only now: a look between its end and a label could have taken that one in as well
    system.end()
    system.move("2026-06-01T16:00+00:00")
    assert len(system.runs()) == 3, "the label of meanwhile"


@pytest.mark.torch
def test_a_scheduled_run_trains_to_its_verdict(database_url: str, redis_url: str, tmp_path: Path) -> None:
    """The run that the schedule opened, by real train and predict workers; a smaller network, so that it is quick."""
    with clocked(database_url, redis_url, tmp_path, ["io"]) as system:
        system.schedule("0 2 * * *", "Europe/Paris", at="2026-06-01T12:00+02:00")
        system.move("2026-06-02T02:00+02:00")
        (run,) = system.runs()
        small = Recipe.for_profile("quick", encoder="tiny", steps_cold=12)
        with system.made.database.transaction() as session:
            session.get_one(Run, run.id).recipe = small.to_json()
        system.start("train,predict")
        system.wait("the run's end", lambda: system.runs()[0].state not in runs.OPEN, 300)
        (run,) = system.runs()
        assert (run.trigger, run.state) == ("schedule", "done"), run.problem
        with system.made.database.transaction() as session:
            model = session.scalars(select(Model).where(Model.run_id == run.id)).one()
            assert model.verdict is not None, "it was judged on the audit masks"
            champion = projects.champion(session, projects.get(session, system.made.project_id))
            assert (champion.id == model.id) == model.verdict["promote"]
            row = schedules.of(session, system.made.project_id)
            assert row is not None
            assert (row.last_outcome, row.last_fired_at) == ("run 1", datetime(2026, 6, 2, tzinfo=UTC))
