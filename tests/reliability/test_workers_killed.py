"""Rows 2, 3 and 4: workers and the beat are killed at the moments that matter, chosen by watching rows and files."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest
from sqlalchemy import func, select

from backend.store import projects, runs
from backend.store.tables import Model, Prediction, Run
from tests.flows.stack import COMMAND
from tests.reliability.fault_log import FaultLog
from tests.reliability.proxy import Call, FaultyDoor
from tests.reliability.ring import Ring

pytestmark = [pytest.mark.processes, pytest.mark.labelstudio, pytest.mark.torch, pytest.mark.timeout(900)]


def _check_done(ring: Ring, run: Run) -> None:
    """The run handed in exactly one model, which was judged."""
    assert run.state == "done", f"{run.problem}\n{ring.stack.last_words()}"
    with ring.database.transaction() as session:
        (model,) = session.scalars(select(Model).where(Model.run_id == run.id)).all()
        assert model.verdict is not None
        assert session.scalar(select(func.count()).select_from(Run).where(Run.state.in_(runs.OPEN))) == 0


def _starts(ring: Ring, number: int) -> list[int]:
    """The steps at which a run's training began, attempt by attempt."""
    lines = (ring.folder(number) / "progress.jsonl").read_text().splitlines()
    return [int(e["step"]) for e in map(json.loads, lines) if e["event"] == "start"]


def test_a_run_is_whole_though_its_worker_is_killed_at_load_after_a_checkpoint_and_at_its_end(
    ring: Ring, log: FaultLog
) -> None:
    number = ring.start_run()
    ring.until(lambda: ring.run(number).state == "training", 60)
    ring.kill("worker-train")  # it has the lease, and at most begun to write the folder
    ring.until(lambda: list((ring.folder(number) / "checkpoint").glob("step-*[0-9]")), 120)
    record = json.loads((ring.folder(number) / "child.json").read_text())
    psutil.Process(record["pid"]).kill()  # right after a checkpoint
    ring.until(lambda: len(_starts(ring, number)) >= 2, 90)
    assert _starts(ring, number)[-1] > 0, "resumed from the checkpoint"
    ring.until(lambda: (ring.folder(number) / "model").is_dir() or ring.run(number).state != "training", 180)
    ring.kill("worker-train")  # the model is written and hardly handed in
    log.struck()
    run = ring.ended(number)
    _check_done(ring, run)
    ring.recover(90)
    seen = f"attempt {run.attempt} handed in the one model; the child resumed at step {_starts(ring, number)[1]}"
    log.recovered(row=2, fault="kill -9 train worker at load and at the end, child after a checkpoint", seen=seen)


def test_a_candidate_is_promoted_whole_or_not_at_all_when_scoring_and_judging_are_killed(
    ring: Ring, log: FaultLog
) -> None:
    before = ring.champion()
    number = ring.start_run()
    ring.until(lambda: ring.run(number).state == "judging", 180)
    version = ring.run(number).version
    ring.until(lambda: _predictions(ring, version) >= 1 or ring.run(number).state == "done", 60)
    ring.kill("worker-predict")  # while it scores the candidate
    ring.kill("worker-io")  # while it waits for the scores, or judges
    ring.until(lambda: ring.run(number).state == "done", 120)
    ring.kill("worker-io")  # right after the verdict: the roll-out has begun, or would
    ring.kill("worker-predict")
    log.struck()
    _check_done(ring, ring.run(number))
    ring.recover(120)
    after = ring.champion()
    promoted = ring.model(version).verdict["promote"]  # type: ignore[index]
    assert after.version == (version if promoted else before.version)
    seen = f"{version} was {'promoted' if promoted else 'kept out'}, and Label Studio shows {after.version}, whole"
    log.recovered(row=2, fault="kill -9 predict and io worker while scoring, and right after the verdict", seen=seen)


def _predictions(ring: Ring, version: str) -> int:
    with ring.database.transaction() as session:
        query = select(func.count()).select_from(Prediction).join(Model, Model.id == Prediction.model_id)
        return session.scalar(query.where(Model.version == version)) or 0


def test_a_killed_beat_comes_back_and_what_it_missed_is_found(ring: Ring, log: FaultLog) -> None:
    ring.kill("beat")
    log.struck()
    with ring.database.transaction() as session:
        projects.choose(session, None).requested_run = "manual"  # noted, and nobody is woken
    number = (ring.latest().number if ring.latest() else 0) + 1  # type: ignore[union-attr]
    ring.until(lambda: ring.latest() is not None and ring.latest().number == number, 60)  # type: ignore[union-attr]
    seconds = log.recovered(row=3, fault="kill -9 beat", seen="started again; a noted request was found by its sweep")
    assert seconds < 60
    _check_done(ring, ring.ended(number))
    ring.recover(90)


def test_two_beats_open_one_run(ring: Ring, log: FaultLog) -> None:
    number = (ring.latest().number if ring.latest() else 0) + 1  # type: ignore[union-attr]
    with _another_beat(ring) as other:
        log.struck()
        with ring.database.transaction() as session:
            projects.choose(session, None).requested_run = "manual"
        ring.until(lambda: ring.latest().number == number, 60)  # type: ignore[union-attr]
        run = ring.ended(number)
        assert other.poll() is None, "the second beat ran all the time"
    _check_done(ring, run)
    assert ring.latest().number == number  # type: ignore[union-attr]
    ring.recover(90)
    log.recovered(row=3, fault="two beats", seen="every sweep ran twice, and one request made one run")


@contextmanager
def _another_beat(ring: Ring) -> Iterator[subprocess.Popen[bytes]]:
    with open(ring.stack.state / "second-beat.log", "ab") as output:
        beat = subprocess.Popen(
            [*COMMAND, "worker", "--beat"], env=ring.stack.environment, stdout=output, stderr=output
        )
    try:
        yield beat
    finally:
        beat.terminate()
        beat.wait(20)


@pytest.mark.parametrize("moment", ["POST /api/projects", "PATCH /api/projects", "DELETE /api/projects"])
def test_a_half_pushed_batch_is_finished_or_replaced_whole(ring: Ring, log: FaultLog, moment: str) -> None:
    """The io worker dies after Label Studio has carried out a call and before the worker can write that down."""
    method, path = moment.split()
    pushed: list[Call] = []

    with FaultyDoor(ring.stack.status["label_studio"]["url"]) as door, ring.through(door):

        def strike(call: Call) -> None:
            if not pushed and call.method == method and call.path.startswith(path):
                pushed.append(call)
                ring.kill("worker-io")
                log.struck()

        door.carried_out = strike
        ring.other_champion()
        ring.until(lambda: pushed, 60)
        ring.recover(90)
    seen = "the next worker adopted what was there; no task and no prediction is there twice"
    log.recovered(row=4, fault=f"kill -9 io worker after Label Studio carried out its {moment}", seen=seen)
