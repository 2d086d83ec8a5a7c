"""kill -9 of the training child, the train worker, the io worker while labels arrive; and Ctrl-C in a run."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sqlalchemy import func, select

from backend.labelstudio.results import scope_item
from backend.store import projects, queue, runs
from backend.store.tables import Annotation, Mask, Model, Run
from mpamatch.datasets import phantom
from tests.flows.stack import Stack, running
from tests.invariants import BrokenInvariants, check_invariants
from tests.servers import PROFILE

pytestmark = [
    pytest.mark.profiles,
    pytest.mark.processes,
    pytest.mark.labelstudio,
    pytest.mark.torch,
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A project with masks enough for runs by hand; none starts by itself."""
    folder = tmp_path_factory.mktemp("drawn")
    phantom.write_folder(folder, tiles=40, groups=10, size_px=128, masked=16, seed=5)
    options = ["--images", str(folder), "--classes", "background,gland", "--start", "blank"]
    with running(options, train_profile="quick", retrain_after_tiles=1000, sweep_s=5, lease_s=20, head_size=20) as up:
        up.wait("the first head", lambda: len(_waiting_tasks(up)) >= 20)
        yield up


def _waiting_tasks(stack: Stack) -> list[int]:
    return [e["ls_task_id"] for e in stack.cli("queue", "list") if e["ls_task_id"] is not None]


def _latest(stack: Stack) -> Run | None:
    with stack.database() as database, database.transaction() as session:
        return runs.latest(session, projects.choose(session, None).id)


def _start_run(stack: Stack) -> int:
    """Ask for a run; returns its number once its training has made some steps."""
    before = _latest(stack)
    number = 1 if before is None else before.number + 1
    assert stack.cli("runs", "start")["starts"]
    stack.wait("training", lambda: _step(stack, number) >= 10, 120)
    return number


def _step(stack: Stack, number: int) -> int:
    run = _latest(stack)
    if run is None or run.number != number or run.state != "training":
        return 0
    return int((run.progress or {}).get("step", 0))


def _ended(stack: Stack, number: int) -> Run | None:
    run = _latest(stack)
    return run if run is not None and run.number == number and run.state in ("done", "failed", "cancelled") else None


def _child(stack: Stack, number: int) -> psutil.Process:
    (record,) = (stack.state / "runs").glob(f"*m{number}-r*/child.json")
    return psutil.Process(json.loads(record.read_text())["pid"])


def _check_one_model(stack: Stack, run: Run) -> None:
    assert run.state == "done", f"{run.problem}\n{stack.last_words()}"
    with stack.database() as database, database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Model).where(Model.run_id == run.id)) == 1
        assert session.scalar(select(func.count()).select_from(Run).where(Run.state.in_(runs.OPEN))) == 0


def test_a_killed_training_goes_on_from_its_checkpoint(stack: Stack) -> None:
    number = _start_run(stack)
    (folder,) = (stack.state / "runs").glob(f"*m{number}-r*")
    # A step is told before its checkpoint is whole, which takes a busy disk its time; its folder is named last.
    stack.wait("a checkpoint", lambda: any((folder / "checkpoint").glob("step-*[0-9]")), 60)
    _child(stack, number).kill()
    run = stack.wait("the run's end", lambda: _ended(stack, number), 240)
    _check_one_model(stack, run)
    assert run.crashes == 1
    events = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    starts = [e for e in events if e["event"] == "start"]
    assert len(starts) == 2
    assert starts[1]["step"] >= 10


def test_a_killed_train_worker_is_replaced_and_its_child_does_not_outlive_it(stack: Stack) -> None:
    number = _start_run(stack)
    child, worker = _child(stack, number), stack.part("worker-train")
    attempt = _latest(stack).attempt  # type: ignore[union-attr]
    worker.kill()
    stack.wait("the child's end", lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 60)
    run = stack.wait("the run's end", lambda: _ended(stack, number), 240)
    _check_one_model(stack, run)
    assert run.attempt > attempt
    assert stack.part("worker-train").pid != worker.pid


def test_no_label_is_lost_or_doubled_while_the_io_worker_is_killed(stack: Stack) -> None:
    waiting = _waiting_tasks(stack)[:12]
    submitted: list[int] = []

    def annotate() -> None:
        for ls_task_id in waiting:
            submitted.append(int(stack.client.create_annotation(ls_task_id, [scope_item("whole tile")], 3.0)["id"]))

    annotator = threading.Thread(target=annotate)
    annotator.start()
    killed = 0
    while annotator.is_alive() and killed < 3:
        stack.wait("an io worker", lambda: _alive(stack, "worker-io"), 60)
        stack.part("worker-io").kill()
        killed += 1
        annotator.join(2.0)
    annotator.join()
    assert killed >= 1
    assert len(submitted) == len(waiting)
    stack.wait("every label", lambda: _masks_of(stack, submitted) == len(submitted), 90)
    with stack.database() as database, database.transaction() as session:
        rows = list(session.scalars(select(Annotation.ls_annotation_id)))
        per_tile = session.execute(
            select(Mask.tile_id, func.count()).where(Mask.annotation_id.is_not(None)).group_by(Mask.tile_id)
        ).all()
    assert sorted(rows) == sorted(submitted)
    assert {n for _, n in per_tile} == {1}


def test_the_invariants_hold_after_these_kills(stack: Stack) -> None:
    def whole() -> bool:
        try:
            with stack.database() as database:
                check_invariants(database, stack.blobs, client=stack.client)
        except BrokenInvariants:
            return False
        return True

    stack.wait("an end without a broken invariant", whole, 90)


def _alive(stack: Stack, role: str) -> bool:
    try:
        return stack.part(role).is_running()
    except (StopIteration, psutil.NoSuchProcess):
        return False


def _masks_of(stack: Stack, ls_annotation_ids: list[int]) -> int:
    with stack.database() as database, database.transaction() as session:
        return (
            session.scalar(
                select(func.count())
                .select_from(Mask)
                .join(Annotation, Annotation.id == Mask.annotation_id)
                .where(Annotation.ls_annotation_id.in_(ls_annotation_ids), Mask.withdrawn_at.is_(None))
            )
            or 0
        )


def test_a_cancelled_run_ends_within_seconds_and_leaves_the_champion_alone(stack: Stack) -> None:
    number = _start_run(stack)
    child = _child(stack, number)
    before = stack.cli("projects", "list")[0]["champion"]
    ended = stack.cli("runs", "cancel")
    assert not child.is_running(), "the training ends before the run is called cancelled"
    assert (ended["run"], ended["state"], ended["champion"]) == (number, "cancelled", before)
    assert ended["seconds"] < 15
    assert stack.cli("projects", "list")[0]["champion"] == before
    with stack.database() as database, database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Model).where(Model.run_id == _latest(stack).id)) == 0  # type: ignore[union-attr]


def test_everything_is_down_within_thirty_seconds_while_a_run_trains_and_the_run_goes_on_at_the_next_start(
    stack: Stack,
) -> None:
    number = _start_run(stack)
    assert stack.stop(signal.SIGINT) < 30
    stack_left = [p for p in stack.alive() if p.status() != psutil.STATUS_ZOMBIE]
    assert stack_left == []
    stack.options = []
    stack.start()
    run = stack.wait("the run's end", lambda: _ended(stack, number), 240)
    _check_one_model(stack, run)
    assert run.crashes == 0
    stack.wait("the head", lambda: _same_head(stack))


def _same_head(stack: Stack) -> bool:
    """After the restart the head's tasks are the queue's first again, whatever ports are in use now."""
    with stack.database() as database, database.transaction() as session:
        project = projects.choose(session, None)
        head = [e.tile_id for e in queue.head(session, project, 20)]
    there = {t["data"]["tile_id"] for t in stack.client.tasks(stack.ls_project_id, unlabelled_only=True)}
    return set(head) <= there


def test_the_state_folder_is_where_everything_is_written(stack: Stack) -> None:
    written = {p.name for p in Path(stack.state).iterdir()}
    assert {"blobs", "label-studio", "logs", "run", "runs", "key"} <= written
    # Servers of others keep their data elsewhere.
    assert written & {"postgres", "redis"} == ({"postgres", "redis"} if PROFILE == "embedded" else set())
