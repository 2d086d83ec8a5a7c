"""Fault 15: a GPU without memory, a GPU that is lost, processes of one run that are killed. All on the CPU: what a
device would do is raised where it would, inside a real training child."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.actions.cancel_run import cancel_run
from backend.actions.open_run import open_run
from backend.settings import Settings
from backend.store import projects
from backend.store.tables import Run
from backend.wakeups import Wakeups
from mpamatch.domain.policy import Policy
from tests.builders import Installation, installation
from tests.mpamatch.tissue import quick_recipe
from tests.reliability.fault_log import FaultLog
from workers.jobs import train
from workers.jobs.train import train_due, training_command
from workers.parts import Parts

pytestmark = [pytest.mark.database, pytest.mark.torch, pytest.mark.processes, pytest.mark.timeout(600)]
LATER = datetime(2100, 1, 1, tzinfo=UTC)

# A training child whose device fails: FAULT is Python that may raise, for `step` and `parts`.
FAULTY = """
import functools, sys
import torch
import mpamatch.training.run_folder as run_folder

def before_share(step, parts):
    {fault}

run_folder.train_run = functools.partial(run_folder.train_run, before_share=before_share)
from mpamatch.cli import main
main(["train", "--run", sys.argv[1]])
"""


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    policy = Policy(debounce_s=0, retrain_after_tiles=2)
    return installation(database_url, tmp_path, train=4, audit=2, masked=True, policy=policy)


def _queue(made: Installation, **knobs: Any) -> int:
    run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is not None, decision.reasons
    with made.database.transaction() as session:
        session.get_one(Run, run.id).recipe = quick_recipe("supervised", **{"steps_cold": 6, **knobs}).to_json()
    return run.id


def _parts(made: Installation, redis_url: str, **values: Any) -> Parts:
    settings = Settings(
        state=made.folder, device="cpu", threads=1, **{"heartbeat_s": 0.2, "broker_url": redis_url, **values}
    )
    return Parts(settings, made.database, made.blobs, made.keys, Wakeups(redis_url), "a-worker")


def _run(made: Installation, run_id: int) -> Run:
    with made.database.transaction() as session:
        return session.get_one(Run, run_id)


def _fail_with(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    program = FAULTY.format(fault=fault)
    monkeypatch.setattr(train, "training_command", lambda folder, _: [sys.executable, "-c", program, str(folder)])


def _events(made: Installation) -> list[dict[str, Any]]:
    (folder,) = (made.folder / "runs").iterdir()
    return [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]


def test_out_of_memory_halves_the_batch_says_so_and_the_run_ends_well(
    made: Installation, redis_url: str, monkeypatch: pytest.MonkeyPatch, log: FaultLog
) -> None:
    _fail_with(monkeypatch, "if step >= 2 and parts == 1: raise torch.OutOfMemoryError('CUDA out of memory')")
    run_id = _queue(made)
    assert train_due(_parts(made, redis_url), stop=lambda: False) == 1
    run = _run(made, run_id)
    assert (run.state, run.crashes, run.problem) == ("judging", 0, None)
    told = [e for e in _events(made) if e["event"] == "memory"]
    assert [(e["step"], e["parts"]) for e in told] == [(3, 2)]
    assert run.metrics is not None
    assert run.metrics["batch_parts"] == 2
    assert run.progress is not None
    for notes in (told[0]["notes"], run.metrics["notes"], run.progress["notes"]):
        assert any("out of memory" in note and "2 parts" in note for note in notes)
    (told_log,) = (made.folder / "runs").glob("*/train.log")
    assert "out of memory" in told_log.read_text()
    assert not _trainers(), "the memory goes with the process"
    log.recovered(
        row=15,
        fault="the device runs out of memory in the third step",
        seen="the batch goes through in 2 parts, the run says so and hands in its model",
    )


def test_a_batch_of_one_that_does_not_fit_fails_the_run_in_one_line_with_its_remedy(
    made: Installation, redis_url: str, monkeypatch: pytest.MonkeyPatch, log: FaultLog
) -> None:
    _fail_with(monkeypatch, "raise torch.OutOfMemoryError('CUDA out of memory')")
    run_id = _queue(made)
    assert train_due(_parts(made, redis_url), stop=lambda: False) == 1
    run = _run(made, run_id)
    assert run.state == "failed"
    assert run.problem is not None
    assert "does not fit in the memory" in run.problem
    assert "crop_px" in run.problem
    assert "\n" not in run.problem
    log.recovered(row=15, fault="a batch of one does not fit", seen=f"the run fails: {run.problem}")


def test_a_lost_device_puts_the_run_back_and_it_goes_on_from_its_checkpoint(
    made: Installation, redis_url: str, monkeypatch: pytest.MonkeyPatch, log: FaultLog
) -> None:
    fault = (
        "import pathlib; once = pathlib.Path(sys.argv[1]) / 'lost-once'\n"
        "    if step == 4 and not once.exists():\n"
        "        once.touch(); raise RuntimeError('CUDA error: unspecified launch failure')"
    )
    _fail_with(monkeypatch, fault)
    run_id = _queue(made, checkpoint_every=2)
    assert train_due(_parts(made, redis_url), stop=lambda: False) == 2
    run = _run(made, run_id)
    assert (run.state, run.crashes, run.problem) == ("judging", 1, None)
    assert [e["step"] for e in _events(made) if e["event"] == "start"] == [0, 4]
    seen = "the run went back to the queue, went on from its checkpoint of step 4 and handed in its model"
    log.recovered(row=15, fault="the device is lost once, in the fifth step", seen=seen)


def test_a_device_that_stays_lost_fails_the_run_in_one_line(
    made: Installation, redis_url: str, monkeypatch: pytest.MonkeyPatch, log: FaultLog
) -> None:
    _fail_with(monkeypatch, "raise RuntimeError('CUDA error: device unavailable')")
    run_id = _queue(made)
    assert train_due(_parts(made, redis_url, job_attempts=2), stop=lambda: False) == 2
    run = _run(made, run_id)
    assert run.state == "failed"
    assert run.problem is not None
    assert run.problem.startswith("device: was lost: CUDA error: device unavailable; ")
    assert "\n" not in run.problem
    seen = f"after {run.crashes} attempts the run fails: {run.problem}"
    log.recovered(row=15, fault="the device stays lost", seen=seen)


def test_a_gpu_that_is_asked_for_and_not_there_fails_the_run_in_one_line(
    made: Installation, redis_url: str, log: FaultLog
) -> None:
    run_id = _queue(made)
    parts = _parts(made, redis_url)
    settings = parts.settings.model_copy(update={"device": "cuda:9"})
    assert train_due(replace(parts, settings=settings), stop=lambda: False) == 1
    run = _run(made, run_id)
    assert run.state == "failed"
    assert run.problem is not None
    assert run.problem.startswith("device cuda:9: ")
    seen = f"the run fails: {run.problem.splitlines()[0]}"
    log.recovered(row=15, fault="a GPU that is not there is asked for", seen=seen)


# Several processes of one run, on gloo.


def _trainers() -> list[psutil.Process]:
    """The processes of a run that live below this one."""
    return [
        p
        for p in psutil.Process().children(recursive=True)
        if p.status() != psutil.STATUS_ZOMBIE and any("/runs/" in w or w.endswith("by-hand") for w in _words(p))
    ]


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def by_hand(made: Installation, redis_url: str) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """torchrun as the train worker starts it, on a run folder that a worker wrote; ended with the test."""
    parts = _parts(made, redis_url, train_devices=2)
    run_id = _queue(made, steps_cold=5000, checkpoint_every=5000)
    folder = made.folder / "by-hand"
    train._write_run_folder(parts, _run(made, run_id), folder)
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        with (folder / "train.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    training_command(folder, 2), env=train._child_environment(parts.settings), stdout=log, stderr=log
                )
            )
        return started[-1]

    yield start
    for child in started:
        train._kill(child)


def _wait(what: str, look: Callable[[], object], limit_s: float = 240.0) -> None:
    until = time.monotonic() + limit_s
    while not look():
        assert time.monotonic() < until, f"{what} did not come within {limit_s:.0f} s"
        time.sleep(0.05)


def _ranks(launcher: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [p for p in psutil.Process(launcher.pid).children() if "mpamatch.cli.several" in _words(p)]


def _steps(folder: Path) -> int:
    path = folder / "progress.jsonl"
    return path.read_text().count('"event": "step"') if path.exists() else 0


def test_no_process_of_a_run_outlives_its_killed_launcher_or_its_killed_peer(
    made: Installation, by_hand: Callable[[], subprocess.Popen[bytes]], log: FaultLog
) -> None:
    folder = made.folder / "by-hand"
    launcher = by_hand()
    _wait("a step", lambda: _steps(folder) >= 3)
    ranks = _ranks(launcher)
    assert len(ranks) == 2
    launcher.kill()
    launcher.wait(10)
    _wait("the end of both", lambda: not any(_lives(p) for p in ranks), 60)
    assert list((folder / "checkpoint").iterdir()), "they were told, and left a checkpoint"

    told = _steps(folder)
    launcher = by_hand()
    _wait("another step", lambda: _steps(folder) >= told + 3)
    ranks = _ranks(launcher)
    ranks[1].send_signal(signal.SIGKILL)
    launcher.wait(120)
    assert not any(_lives(p) for p in ranks)
    assert _lives_none(folder)
    seen = "no process of the run is left; the launcher's two left a checkpoint, and the run went on from it"
    log.recovered(row=15, fault="kill -9 the launcher of two processes, then one of the two", seen=seen)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _lives_none(folder: Path) -> bool:
    return not [p for p in _trainers() if str(folder) in _words(p)]


def test_a_run_of_two_processes_is_stopped_goes_on_and_is_cancelled_without_a_trace(
    made: Installation, redis_url: str, log: FaultLog
) -> None:
    parts = _parts(made, redis_url, train_devices=2)
    run_id = _queue(made, steps_cold=5000, checkpoint_every=5000)

    def progressed(step: int) -> bool:
        return int((_run(made, run_id).progress or {}).get("step", 0)) >= step

    assert train_due(parts, stop=lambda: progressed(2)) == 1
    run = _run(made, run_id)
    assert (run.state, run.crashes) == ("queued", 0)
    assert not _trainers()
    (folder,) = (made.folder / "runs").iterdir()
    (checkpoint,) = (folder / "checkpoint").iterdir()
    stopped_at = int(checkpoint.name.removeprefix("step-"))

    def cancel() -> None:
        _wait("the next steps", lambda: progressed(stopped_at + 2))
        with made.database.transaction() as session:
            cancel_run(session, projects.get(session, made.project_id), None, now=LATER, actor="test")

    canceller = threading.Thread(target=cancel)
    canceller.start()
    assert train_due(parts, stop=lambda: False) == 1
    canceller.join(10)
    run = _run(made, run_id)
    assert (run.state, run.crashes) == ("cancelled", 0)
    assert not _trainers()
    assert [e["step"] for e in _events(made) if e["event"] == "start"] == [0, stopped_at]
    assert {e["processes"] for e in _events(made) if e["event"] == "start"} == {2}
    seen = f"went on from step {stopped_at} with both, then ended as cancelled; no process and no crash is left"
    log.recovered(row=15, fault="a run of two processes is stopped, goes on, and is cancelled", seen=seen)
