"""Carry one run from queued to judging: write its folder, start the training as a child, watch it, keep the model.

The child computes and this process watches: memory is given back whatever happens, and the same command works by hand.
A stop asked for by the machine puts the run back with its checkpoint; a stop asked for by a person cancels it.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from backend.clock import utc_now
from backend.processes import tied_command
from backend.settings import inherited_environment
from backend.store import events, models, projects, runs
from backend.store.tables import Model, Run
from mpamatch.errors import BadInput, Conflict, NotFound, Unavailable
from mpamatch.files.model_archive import pack_model, unpack_model
from workers.parts import Parts

LOG = logging.getLogger("mpamatch.train")
INTERRUPTED = 75
POLL_S = 0.5
STOP_GRACE_S = 10.0


def train_due(parts: Parts, *, stop: Callable[[], bool]) -> int:
    """Train runs until none waits; returns how many were carried on."""
    carried = 0
    while not stop():
        with parts.database.transaction() as session:
            run = runs.claim_training(session, now=utc_now(), holder=parts.holder, lease_s=parts.settings.lease_s)
        if run is None:
            return carried
        carried += 1
        try:
            _carry(parts, run, stop)
        except Conflict as error:
            LOG.info("run=%s %s", run.id, error)
        except (BadInput, NotFound) as error:
            _fail(parts, run, str(error))
    return carried


def _carry(parts: Parts, run: Run, stop: Callable[[], bool]) -> None:
    if run.crashes >= parts.settings.job_attempts:
        _fail(parts, run, f"its worker died {run.crashes} times; see the log of the train worker")
        return
    folder = run_folder(parts, run)
    _end_leftover(folder)
    _write_run_folder(parts, run, folder)
    code = _watch(parts, run, folder, stop)
    if code == 0:
        _keep_candidate(parts, run, folder)
    elif code == INTERRUPTED or (code is None):
        _put_back(parts, run)
    else:
        _after_failure(parts, run, folder, code)


def run_folder(parts: Parts, run: Run) -> Path:
    """Where a run works: its snapshot, progress, checkpoint and model."""
    return parts.settings.state / "runs" / f"{run.version}-r{run.id}"


def _end_leftover(folder: Path) -> None:
    """A child of a holder that died may live for an instant; two writers in one folder must not be."""
    record = folder / "child.json"
    try:
        noted = json.loads(record.read_text())
        process = psutil.Process(int(noted["pid"]))
        if abs(process.create_time() - float(noted["created"])) < 0.01:
            process.kill()
            process.wait(10)
    except (FileNotFoundError, ValueError, KeyError, psutil.NoSuchProcess):
        pass
    record.unlink(missing_ok=True)


def _write_run_folder(parts: Parts, run: Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = json.loads(parts.blobs.get(run.snapshot_blob))
    with parts.database.transaction() as session:
        project = projects.get(session, run.project_id)
        classes, seed = project.classes, project.seed
        start = None if snapshot["start_model"] is None else session.get_one(Model, snapshot["start_model"])
    start_folder = None
    if start is not None and start.blob is not None:
        start_folder = folder / "start"
        if not start_folder.exists():
            parts.blobs.get(start.blob)
            unpack_model(parts.blobs.path(start.blob), start_folder)
    path = parts.blobs.path
    description = {
        "seed": seed + run.number,
        "recipe": run.recipe,
        "classes": classes,
        "version": run.version,
        "labelled": [
            {
                "tile": row["tile"],
                "group": row["group"],
                "image": str(path(row["png_blob"])),
                "mask": str(path(row["mask_blob"])),
            }
            for row in snapshot["labelled"]
        ],
        "pool": [
            {"tile": row["tile"], "group": row["group"], "image": str(path(row["png_blob"]))}
            for row in snapshot["pool"]
        ],
        "start": None if start_folder is None else str(start_folder),
        "threads": parts.settings.threads,
    }
    _write(folder / "run.json", json.dumps(description, sort_keys=True, indent=1))


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}")
    part.write_text(text)
    os.replace(part, path)


def _watch(parts: Parts, run: Run, folder: Path, stop: Callable[[], bool]) -> int | None:
    """Run the child to its end; None when it had to be killed on the way to a stop. Raises Conflict when fenced off."""
    command = [sys.executable, "-c", "from mpamatch.cli import main; main()", "train", "--run", str(folder)]
    (folder / "error.json").unlink(missing_ok=True)
    with open(folder / "train.log", "ab") as log:
        child = subprocess.Popen(
            tied_command(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=inherited_environment(),
            start_new_session=True,
        )
    try:
        _write(
            folder / "child.json",
            json.dumps({"pid": child.pid, "created": psutil.Process(child.pid).create_time()}),
        )
        return _wait(parts, run, folder, child, stop)
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _wait(parts: Parts, run: Run, folder: Path, child: subprocess.Popen[bytes], stop: Callable[[], bool]) -> int | None:
    beaten = 0.0
    while child.poll() is None:
        if time.monotonic() - beaten > parts.settings.heartbeat_s:
            beaten = time.monotonic()
            if _beat(parts, run, folder):
                child.kill()
                child.wait()
                _cancel(parts, run)
                raise Conflict(f"run {run.number}", "was cancelled", "")
        if stop():
            return _stop_child(child)
        time.sleep(POLL_S)
    return child.returncode


def _beat(parts: Parts, run: Run, folder: Path) -> bool:
    """Renew the lease; True when asked to stop. A database that is away for a moment costs no training."""
    try:
        with parts.database.transaction() as session:
            return runs.heartbeat(
                session,
                run.id,
                attempt=run.attempt,
                now=utc_now(),
                lease_s=parts.settings.lease_s,
                progress=read_progress(folder),
            )
    except Unavailable as error:
        LOG.warning("run=%s heartbeat: %s", run.id, error)
        return False


def _stop_child(child: subprocess.Popen[bytes]) -> int | None:
    child.terminate()
    try:
        return child.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
        return None


def read_progress(folder: Path) -> dict[str, Any] | None:
    """The latest complete step report, from the end of the progress file."""
    try:
        with open(folder / "progress.jsonl", "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65_536))
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return None
    for line in reversed(lines):
        try:
            report = json.loads(line)
        except ValueError:
            continue
        if isinstance(report, dict) and report.get("event") == "step":
            return report
    return None


def _keep_candidate(parts: Parts, run: Run, folder: Path) -> None:
    """The model's blob first, then its row and the run's move, in one transaction of the attempt that holds it."""
    blob = parts.blobs.put(pack_model(folder / "model"))
    result = json.loads((folder / "result.json").read_text())
    with parts.database.transaction() as session:
        held = runs.held(session, run.id, run.attempt)
        if models.candidate_of(session, run.id) is None:
            session.add(
                Model(
                    project_id=run.project_id,
                    version=run.version,
                    kind="trained",
                    state="candidate",
                    blob=blob,
                    run_id=run.id,
                    metrics=result,
                )
            )
        runs.move(
            session,
            held,
            "judging",
            actor=parts.holder,
            metrics=result,
            progress=read_progress(folder),
            lease_holder=None,
            lease_until=None,
        )
    parts.wakeups.predict()
    parts.wakeups.sync(run.project_id)


def _put_back(parts: Parts, run: Run) -> None:
    with parts.database.transaction() as session:
        held = runs.held(session, run.id, run.attempt)
        runs.move(session, held, "queued", actor=parts.holder, lease_holder=None, lease_until=None)
    LOG.info("run=%s put back with its checkpoint", run.id)


def _cancel(parts: Parts, run: Run) -> None:
    with parts.database.transaction() as session:
        held = runs.held(session, run.id, run.attempt)
        runs.move(session, held, "cancelled", actor=parts.holder, finished_at=utc_now(), lease_until=None)


def _fail(parts: Parts, run: Run, problem: str) -> None:
    with parts.database.transaction() as session:
        held = runs.held(session, run.id, run.attempt)
        runs.move(session, held, "failed", actor=parts.holder, problem=problem, finished_at=utc_now(), lease_until=None)
    LOG.error("run=%s failed: %s", run.id, problem)


def _after_failure(parts: Parts, run: Run, folder: Path, code: int) -> None:
    """A child that says what is wrong ends the run; one that was killed is started again, a few times."""
    try:
        said = json.loads((folder / "error.json").read_text())
        _fail(parts, run, f"{said['item']}: {said['problem']}; {said.get('remedy', '')}")
        return
    except (FileNotFoundError, ValueError, KeyError):
        pass
    with parts.database.transaction() as session:
        held = runs.held(session, run.id, run.attempt)
        held.crashes += 1
        again = held.crashes < parts.settings.job_attempts
        if again:
            runs.move(session, held, "queued", actor=parts.holder, lease_holder=None, lease_until=None)
            events.record(
                session,
                project_id=run.project_id,
                actor=parts.holder,
                what="training ended early",
                subject=f"run:{run.id}",
                after={"code": code, "crashes": held.crashes},
            )
    if not again:
        _fail(parts, run, f"the training ended with code {code} {run.crashes + 1} times; see {folder}/train.log")
