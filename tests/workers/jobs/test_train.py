import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from backend.actions.open_run import open_run
from backend.settings import Settings
from backend.store import projects, runs
from backend.store.tables import Run
from backend.wakeups import Wakeups
from mpamatch.domain.policy import Policy
from tests.builders import installation
from workers.jobs import train
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


@pytest.mark.processes
@pytest.mark.parametrize(
    ("free", "error", "devices", "ended"),
    [
        (1 << 20, None, 2, ("queued", 0)),
        (1 << 40, None, 2, ("failed", 2)),
        (1 << 20, None, 1, ("failed", 2)),
        (1 << 20, '{"item": "mask 3", "problem": "is no PNG"}', 2, ("failed", 0)),
    ],
    ids=["full", "room enough", "one process says it by its code", "it said what is wrong"],
)
def test_several_processes_that_end_on_a_full_disk_wait_for_space(
    free: int,
    error: str | None,
    devices: int,
    ended: tuple[str, int],
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torchrun ends with 1 whatever its processes say."""
    made = installation(
        database_url, tmp_path, train=4, audit=2, masked=True, policy=Policy(debounce_s=0, retrain_after_tiles=2)
    )
    run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is not None, decision.reasons

    def command(folder: Path, processes: int) -> list[str]:
        words = f"open({str(folder / 'error.json')!r}, 'w').write({error!r})" if error else "pass"
        return [sys.executable, "-c", f"{words}; raise SystemExit(1)"]

    monkeypatch.setattr(train, "training_command", command)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1 << 41, used=0, free=free))
    settings = Settings(
        state=tmp_path, database_url=database_url, broker_url=redis_url, train_devices=devices, job_attempts=2
    )
    parts = Parts(settings, made.database, made.blobs, made.keys, Wakeups(redis_url), "a-worker")
    train_due(parts, stop=lambda: False)
    with made.database.transaction() as session:
        row = session.get_one(Run, run.id)
        assert (row.state, row.crashes) == ended
        if ended == ("queued", 0):
            assert row.lease_until is not None, "it is tried again after a while"


def test_what_a_run_says_of_its_end_names_no_folder(database_url: str, redis_url: str, tmp_path: Path) -> None:
    made = installation(
        database_url, tmp_path, train=4, audit=2, masked=True, policy=Policy(debounce_s=0, retrain_after_tiles=2)
    )
    run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is not None, decision.reasons
    settings = Settings(state=tmp_path, database_url=database_url, broker_url=redis_url)
    parts = Parts(settings, made.database, made.blobs, made.keys, Wakeups(redis_url), "a-worker")
    with made.database.transaction() as session:
        held = runs.claim_training(session, now=parts.now(), holder="a-worker", lease_s=60)
        assert held is not None
        held.crashes = settings.job_attempts - 1
    folder = runs.folder(tmp_path, held)
    folder.mkdir(parents=True)
    (folder / "error.json").write_text(
        json.dumps({"item": f"{tmp_path}/blobs/ab/abcd", "problem": "is no PNG", "again": True})
    )
    train._after_failure(parts, held, folder, 1)
    with made.database.transaction() as session:
        said = session.get_one(Run, run.id).problem or ""
    assert str(tmp_path) not in said
    assert said.startswith("blobs/ab/abcd: is no PNG")
    assert f"mpamatch runs logs {run.number}" in said


def test_what_a_dead_training_started_is_ended_too(tmp_path: Path) -> None:
    """The first of the family, torchrun, is gone; its processes go on by themselves."""
    gone, left, stranger = (subprocess.Popen(["sleep", "600"]) for _ in range(3))
    try:
        noted = [{"pid": one.pid, "created": psutil.Process(one.pid).create_time()} for one in (gone, left)]
        noted.append({"pid": stranger.pid, "created": 1.0})  # its number was given to somebody else
        gone.kill()
        gone.wait()
        (tmp_path / "child.json").write_text(json.dumps({"pid": gone.pid, "processes": noted}))
        train._end_leftover(tmp_path)
        assert left.poll() is not None
        assert stranger.poll() is None
        assert not (tmp_path / "child.json").exists()
    finally:
        for one in (gone, left, stranger):
            one.kill()
            one.wait()
