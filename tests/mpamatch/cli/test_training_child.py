import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mpamatch.tissue import quick_recipe, write_run

pytestmark = [pytest.mark.torch, pytest.mark.processes]

CHILD = """
import sys
from importlib.metadata import EntryPoint
import mpamatch.cli as cli
cli._entries = lambda: {"train": EntryPoint("train", "mpamatch.cli.train:train", cli.GROUP)}
cli.main(["train", "--run", sys.argv[1]])
"""
LONG = {"steps_cold": 20, "checkpoint_every": 1000, "tau": 0.4}


def _start(folder: Path, program: str = CHILD) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    return subprocess.Popen([sys.executable, "-c", program, str(folder)], env=environment, stderr=subprocess.PIPE)


def _wait_for_step(folder: Path, step: int, timeout_s: float = 60) -> None:
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        path = folder / "progress.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.02)
    raise AssertionError(f"step {step} was not reached")


def _finished(folder: Path) -> bytes:
    assert _start(folder).wait(120) == 0
    return (folder / "model" / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The model of a run that nothing stopped."""
    return _finished(write_run(tmp_path_factory.mktemp("whole"), recipe=quick_recipe(**LONG)))


def test_sigterm_leaves_a_checkpoint_and_the_run_goes_on_to_the_same_model(tmp_path: Path, whole: bytes) -> None:
    folder = write_run(tmp_path, recipe=quick_recipe(**LONG))
    child = _start(folder)
    _wait_for_step(folder, 5)
    asked = time.monotonic()
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 75
    assert time.monotonic() - asked < 20
    (checkpoint,) = (folder / "checkpoint").iterdir()
    assert checkpoint.name != "step-000020"
    assert not (folder / "result.json").exists()
    assert not (folder / "error.json").exists()
    assert _finished(folder) == whole


def test_a_killed_child_goes_on_from_its_last_checkpoint(tmp_path: Path, whole: bytes) -> None:
    folder = write_run(tmp_path, recipe=quick_recipe(**{**LONG, "checkpoint_every": 4}))
    child = _start(folder)
    _wait_for_step(folder, 9)
    child.kill()
    child.wait(30)
    assert _finished(folder) == whole
    starts = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines() if '"start"' in line]
    assert starts[1]["step"] >= 8


def test_sigterm_before_training_leaves_at_once(tmp_path: Path) -> None:
    child = _start(write_run(tmp_path, recipe=quick_recipe(**LONG)))
    time.sleep(1.5)  # torch is still being imported
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) in (75, -signal.SIGTERM)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's parent-death signal is Linux's")
def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    folder = write_run(tmp_path, recipe=quick_recipe(**{**LONG, "steps_cold": 5000}))
    program = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}, sys.argv[1]])
print(child.pid, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    _wait_for_step(folder, 3)
    parent.kill()
    parent.wait(30)
    until = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(pid)
    assert list((folder / "checkpoint").iterdir())


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_bad_input_is_written_for_whoever_started_the_child(tmp_path: Path) -> None:
    folder = write_run(tmp_path, labelled=0)
    child = _start(folder)
    assert child.wait(60) == 1
    assert set(json.loads((folder / "error.json").read_text())) == {"item", "problem", "remedy", "again"}
    assert child.stderr is not None
    assert child.stderr.read().decode().startswith("mpamatch: ")
