"""Carry one run from queued to judging: write its folder, start the training as a child, watch it, keep the model.

The child computes and this process watches: memory is given back whatever happens, and the same command works by hand.
A stop asked for by the machine puts the run back with its checkpoint; a stop asked for by a person cancels it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from backend.actions.set_aside import give_up_model, set_aside_tile
from backend.processes import family, record_of, send, tied_command, wait_gone
from backend.settings import Settings, inherited_environment
from backend.store import events, models, projects, runs
from backend.store.tables import Model, Run
from mpamatch.errors import BadInput, Conflict, NotFound, Unavailable
from mpamatch.files.model_archive import pack_model, unpack_model
from workers.parts import Parts

LOG = logging.getLogger("mpamatch.train")
INTERRUPTED, NOT_WRITTEN = 75, 74
# A run that found the disk full waits this long before it is tried again; nothing but time is lost by waiting.
PAUSE_S = 20.0
NO_ROOM_BYTES = 64 << 20
CURVES_NAME = "curves.png"
BLOBS_NAME = "blobs"
POLL_S = 0.25
# A person waits for the end of what they cancelled; a heartbeat may be set far apart.
CANCEL_POLL_S = 0.5
STOP_GRACE_S = 10.0
# What torchrun leaves its processes on the way down: less, so that it ends before it is killed.
SEVERAL_GRACE_S = 8


def train_due(parts: Parts, *, stop: Callable[[], bool]) -> int:
    """Train runs until none waits; returns how many were carried on."""
    carried = 0
    while not stop():
        with parts.database.transaction() as session:
            run = runs.claim_training(session, now=parts.now(), holder=parts.holder, lease_s=parts.settings.lease_s)
        if run is None:
            return carried
        carried += 1
        try:
            _carry(parts, run, stop)
        except Conflict as error:
            LOG.info("run=%s %s", run.id, error)
        except (BadInput, NotFound) as error:
            _fail(parts, run, str(error))
        except (Unavailable, OSError) as error:
            # The blobs, the disk, or the database itself: no fault of the run.
            LOG.warning("run=%s waits: %s", run.id, error)
            _put_back(parts, run, pause_s=PAUSE_S)
    return carried


def _carry(parts: Parts, run: Run, stop: Callable[[], bool]) -> None:
    if run.crashes >= parts.settings.job_attempts:
        _fail(parts, run, f"its worker died {run.crashes} times; see the log of the train worker")
        return
    folder = runs.folder(parts.settings.state, run)
    _end_leftover(folder)
    _write_run_folder(parts, run, folder)
    code = _watch(parts, run, folder, stop)
    if code == 0:
        _keep_candidate(parts, run, folder)
        _drop_files(parts, run)
    elif code == INTERRUPTED or (code is None):
        _put_back(parts, run)
    elif code == NOT_WRITTEN or _found_no_room(parts.settings, folder):
        LOG.warning("run=%s waits: the disk takes no more; see %s/train.log", run.id, folder)
        _put_back(parts, run, pause_s=PAUSE_S)
    else:
        _after_failure(parts, run, folder, code)


def _found_no_room(settings: Settings, folder: Path) -> bool:
    """Whether several processes ended for want of space: torchrun keeps their codes to itself, so the disk is asked.

    What a checkpoint takes counts as none: one that found no room has given back what it had begun.
    """
    if settings.train_devices == 1 or _said(folder) is not None:
        return False
    checkpoint = sum(path.stat().st_size for path in (folder / "checkpoint").rglob("*") if path.is_file())
    return shutil.disk_usage(folder).free < max(NO_ROOM_BYTES, checkpoint)


def training_command(folder: Path, processes: int) -> list[str]:
    """How a run is trained: by one process, or by several that torchrun starts on this machine."""
    if processes == 1:
        return [sys.executable, "-c", "from mpamatch.cli import main; main()", "train", "--run", str(folder)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    torchrun += ["--nproc-per-node", str(processes), "--max-restarts", "0"]
    return [*torchrun, "--shutdown-timeout", str(SEVERAL_GRACE_S), "-m", "mpamatch.cli.several", str(folder)]


def _child_environment(settings: Settings) -> dict[str, str]:
    environment = inherited_environment()
    if settings.train_devices > 1:
        environment["GLOO_SOCKET_IFNAME"] = "lo" if sys.platform.startswith("linux") else "lo0"
        if settings.threads is not None or "OMP_NUM_THREADS" in environment:
            threads = settings.threads or int(environment["OMP_NUM_THREADS"])
            environment["OMP_NUM_THREADS"] = str(max(1, threads // settings.train_devices))
    return environment


def _end_leftover(folder: Path) -> None:
    """A child of a holder that died may live for an instant; two writers in one folder must not be."""
    record = folder / "child.json"
    try:
        noted = [(int(one["pid"]), float(one["created"])) for one in json.loads(record.read_text())["processes"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        noted = []
    for pid, created in noted:
        with suppress(psutil.Error):  # gone already: those that it started may live on
            process = psutil.Process(pid)
            if abs(process.create_time() - created) < 0.01:
                process.kill()
                process.wait(10)
    record.unlink(missing_ok=True)


def _note_processes(folder: Path, child: subprocess.Popen[bytes]) -> None:
    """Write down the child and what it started, for whoever comes after a holder that died."""
    record = record_of("training", child.pid)
    if record is not None:
        found = [{"pid": one.pid, "created": one.create_time} for one in family(record)]
        _write(folder / "child.json", json.dumps({"pid": child.pid, "processes": found}))


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever it started, at once."""
    record = record_of("training", child.pid)
    members = [] if record is None else family(record)
    for member in members:
        send(member, signal.SIGKILL)
    child.kill()
    child.wait()
    wait_gone(members, 5.0)


def _write_run_folder(parts: Parts, run: Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = json.loads(parts.blobs.get(run.snapshot_blob))
    with parts.database.transaction() as session:
        project = projects.get(session, run.project_id)
        classes, seed = snapshot.get("classes", project.classes), project.seed
        start = None if snapshot["start_model"] is None else session.get_one(Model, snapshot["start_model"])
    start_folder, encoder_blob = None, snapshot.get("encoder_blob")
    blob = encoder_blob if start is None else start.blob
    if blob is not None:
        start_folder = folder / "start"
        if not start_folder.exists():
            unpack_model(_start_weights(parts, blob, start), start_folder)
    lost = _lost(parts, [*snapshot["labelled"], *snapshot["pool"]])
    files = folder / BLOBS_NAME
    adapts = snapshot.get("adapt", False)
    description = {
        "adapt": adapts,
        "start_version": start.version if adapts and start is not None else None,
        "seed": snapshot.get("seed", seed + run.number),
        "recipe": run.recipe,
        "classes": classes,
        "version": run.version,
        "labelled": [_masked(parts, row, files) for row in snapshot["labelled"] if row["tile"] not in lost],
        "audit": [_masked(parts, row, files) for row in snapshot.get("audit", ())],
        "pool": [
            {
                "tile": row["tile"],
                "group": row["group"],
                "image": str(_local(parts, row["png_blob"], files)),
                "um_per_px": row.get("um_per_px"),
            }
            for row in snapshot["pool"]
            if row["tile"] not in lost
        ],
        "start": None if start_folder is None else str(start_folder),
        "fresh_head": start is None and encoder_blob is not None,
        "full_schedule": snapshot.get("full_schedule", False),
        "threads": parts.settings.threads,
        "device": parts.settings.device,
        "precision": parts.settings.precision,
        "weights_dir": None if parts.settings.weights_dir is None else str(parts.settings.weights_dir.absolute()),
    }
    _write(folder / "run.json", json.dumps(description, sort_keys=True, indent=1))


def _masked(parts: Parts, row: Mapping[str, Any], files: Path) -> dict[str, Any]:
    return {
        "tile": row["tile"],
        "group": row["group"],
        "image": str(_local(parts, row["png_blob"], files)),
        "mask": str(_local(parts, row["mask_blob"], files)),
        "um_per_px": row.get("um_per_px"),
    }


def _local(parts: Parts, digest: str, folder: Path) -> Path:
    """A blob as a file. Where it is lost or damaged, a file that is not there: training leaves its tile out."""
    try:
        return parts.blobs.local(digest, folder)
    except (BadInput, NotFound) as error:
        LOG.warning("%s", error)
        return folder / digest


def _start_weights(parts: Parts, blob: str, start: Model | None) -> bytes:
    """The packed model that a run begins from. Raises BadInput or NotFound when it cannot be had; a champion without
    its weights steps down."""
    try:
        return parts.blobs.get(blob)
    except (BadInput, NotFound) as error:
        if start is not None:
            give_up_model(parts.database, parts.blobs, start.id, error, actor=parts.holder, now=parts.now())
        raise


def _lost(parts: Parts, rows: Iterable[Mapping[str, Any]]) -> set[int]:
    """The tiles of a run whose mask or picture is gone or not what it was: set aside, and the run goes on without.

    Whatever is labelled is checked against its hash; of the pool, which may be huge, only whether it is there. A
    picture of the pool that is damaged shows when the run decodes it, and is left out then.
    """
    lost: set[int] = set()
    for row in rows:
        for kind in ("mask", "png"):
            digest = row.get(f"{kind}_blob")
            if digest is None or row["tile"] in lost or ("mask_blob" not in row and parts.blobs.exists(digest)):
                continue
            try:
                parts.blobs.get(digest)
            except (BadInput, NotFound) as error:
                item = f"mask {row['mask']}" if kind == "mask" else "picture"
                named = type(error)(item, f"{error.item} {error.problem}", error.remedy)
                set_aside_tile(parts.database, row["tile"], named, actor=parts.holder)
                lost.add(row["tile"])
    return lost


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}")
    part.write_text(text)
    os.replace(part, path)


def _watch(parts: Parts, run: Run, folder: Path, stop: Callable[[], bool]) -> int | None:
    """Run the child to its end; None when it had to be killed on the way to a stop. Raises Conflict when fenced off."""
    command = training_command(folder, parts.settings.train_devices)
    (folder / "error.json").unlink(missing_ok=True)
    with open(folder / "train.log", "ab") as log:
        child = subprocess.Popen(
            tied_command(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_child_environment(parts.settings),
            start_new_session=True,
        )
    try:
        _note_processes(folder, child)
        return _wait(parts, run, folder, child, stop)
    finally:
        if child.poll() is None:
            _kill(child)


def _wait(parts: Parts, run: Run, folder: Path, child: subprocess.Popen[bytes], stop: Callable[[], bool]) -> int | None:
    beaten = asked = 0.0
    while child.poll() is None:
        cancelled = False
        if time.monotonic() - beaten > parts.settings.heartbeat_s:
            beaten = asked = time.monotonic()
            if parts.settings.train_devices > 1:
                _note_processes(folder, child)
            cancelled = _beat(parts, run, folder)
        elif time.monotonic() - asked > CANCEL_POLL_S:
            asked = time.monotonic()
            cancelled = _cancel_wanted(parts, run)
        if cancelled:
            _kill(child)
            _cancel(parts, run)
            raise Conflict(f"run {run.number}", "was cancelled", "")
        if stop():
            code = _stop_child(child)
            # torchrun has codes of its own: what it stopped on our wish goes on from its checkpoint.
            return INTERRUPTED if parts.settings.train_devices > 1 and code != 0 else code
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
                now=parts.now(),
                lease_s=parts.settings.lease_s,
                progress=read_progress(folder),
            )
    except Unavailable as error:
        LOG.warning("run=%s heartbeat: %s", run.id, error)
        return False


def _cancel_wanted(parts: Parts, run: Run) -> bool:
    try:
        with parts.database.transaction() as session:
            return runs.cancel_wanted(session, run.id)
    except Unavailable:
        return False  # the heartbeat says so


def _stop_child(child: subprocess.Popen[bytes]) -> int | None:
    child.terminate()
    try:
        return child.wait(STOP_GRACE_S)
    except subprocess.TimeoutExpired:
        _kill(child)
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
    curves = folder / CURVES_NAME
    curves_blob = parts.blobs.put(curves.read_bytes()) if curves.is_file() else None
    result = json.loads((folder / "result.json").read_text())
    with parts.database.transaction() as session:
        held = runs.held(session, run.id, run.attempt)
        if held.cancel_requested:  # it ended before the wish was seen: all the same, nothing comes of it
            runs.move(session, held, "cancelled", actor=parts.holder, finished_at=parts.now(), lease_until=None)
            return
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
            curves_blob=curves_blob,
            progress=read_progress(folder),
            lease_holder=None,
            lease_until=None,
        )
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)  # nobody resumes it, and each takes as much as a model
    parts.wakeups.predict()
    parts.wakeups.sync(run.project_id)


def _put_back(parts: Parts, run: Run, *, pause_s: float = 0.0) -> None:
    """Back to the queue; with a pause nobody takes it before that time."""
    until = parts.now() + timedelta(seconds=pause_s) if pause_s else None
    with parts.database.transaction() as session:
        held = runs.held(session, run.id, run.attempt)
        runs.move(session, held, "queued", actor=parts.holder, lease_holder=None, lease_until=until)
    LOG.info("run=%s put back with its checkpoint", run.id)
    if not pause_s:  # another train worker, where there is one, need not wait for the sweep
        parts.wakeups.train()


def _cancel(parts: Parts, run: Run) -> None:
    with parts.database.transaction() as session:
        held = runs.held(session, run.id, run.attempt)
        runs.move(session, held, "cancelled", actor=parts.holder, finished_at=parts.now(), lease_until=None)
    _drop_files(parts, run)


def _fail(parts: Parts, run: Run, problem: str) -> None:
    with parts.database.transaction() as session:
        held = runs.held(session, run.id, run.attempt)
        runs.move(
            session,
            held,
            "failed",
            actor=parts.holder,
            problem=_without_folders(parts.settings, problem),
            finished_at=parts.now(),
            lease_until=None,
        )
    _drop_files(parts, run)
    LOG.error("run=%s failed: %s", run.id, problem)


def _without_folders(settings: Settings, problem: str) -> str:
    """What the row says is read by everybody who may see the run; folders stand in the log."""
    folders = [settings.state] if settings.blobs_in_bucket else [settings.state, settings.blobs_folder]
    for folder in folders:
        problem = problem.replace(f"{folder}{os.sep}", "")
    return problem


def _drop_files(parts: Parts, run: Run) -> None:
    """Files that were fetched for a run that has ended are needed no more."""
    shutil.rmtree(runs.folder(parts.settings.state, run) / BLOBS_NAME, ignore_errors=True)


def _after_failure(parts: Parts, run: Run, folder: Path, code: int) -> None:
    """A child that says what is wrong ends the run; one that was killed or lost its device is started again."""
    said = _said(folder)
    if said is not None and not said.get("again"):
        _fail(parts, run, _line(said))
        return
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
                after={"code": code, "crashes": held.crashes, "problem": None if said is None else _line(said)},
            )
    if not again:
        ended = f"the training ended with code {code}" if said is None else _line(said)
        LOG.error("run=%s see %s/train.log", run.id, folder)
        _fail(parts, run, f"{ended} ({run.crashes + 1} times; see `mpamatch runs logs {run.number}`)")


def _said(folder: Path) -> dict[str, Any] | None:
    try:
        said = json.loads((folder / "error.json").read_text())
        return said if {"item", "problem"} <= set(said) else None
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _line(said: dict[str, Any]) -> str:
    return f"{said['item']}: {said['problem']}; {said.get('remedy', '')}"
