"""The command itself, in processes of its own: a small simulation, and called again once it is done."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mpamatch.datasets import phantom

pytestmark = [pytest.mark.torch, pytest.mark.processes]

PROGRAM = "import sys, mpamatch.cli; mpamatch.cli.main(['simulate', *sys.argv[1:]])"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
KNOBS = {"steps_cold": 4, "steps_warm": 2, "crop_px": 64, "patch_px": 64, "labelled_batch": 2, "unlabelled_batch": 2}


def words_of(root: Path, out: Path, *more: str) -> list[str]:
    words = ["--dataset", "phantom", "--root", str(root), "--out", str(out), "--profile", "quick", "--json"]
    words += ["--strategies", "entropy,random", "--rounds", "1", "--seeds", "1", "--encoder", "tiny"]
    words += ["--labelled", "1", "--budget", "6", "--box", "16"]
    words += [part for name, value in KNOBS.items() for part in ("--set", f"{name}={value}")]
    return [*words, *more]


def simulate(root: Path, out: Path, *more: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words_of(root, out, *more)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tissue") / "drawn"
    phantom.write_folder(folder, tiles=6, groups=3, size_px=80)
    return folder


def test_a_simulation_runs_is_told_and_is_found_done(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "simulate-phantom-quick"
    code, text, said = simulate(root, out)
    assert code == 0, said
    assert "4 cells; rounds: 1, of 6 clicks; boxes of 16 px; supervised; about" in said
    document: dict[str, Any] = json.loads(text)
    assert json.loads((out / "results.json").read_text()) == document
    assert [(c["strategy"], c["state"]) for c in document["cells"]] == [
        (name, "done") for name in ("start", "all-labels", "entropy", "random")
    ]
    for row in document["strategies"].values():
        assert 0 < row["aubc_clicks"][0] < 1
        assert 0 < row["bought"]["clicks"][0] <= 6
    assert document["verdict"] in (out / "results.md").read_text()
    assert (out / "results.png").is_file()
    assert str(tmp_path) not in text
    code, again, said = simulate(root, out)
    assert (code, json.loads(again)) == (0, document), said


def test_a_terminal_that_nobody_reads_does_not_keep_a_stopped_simulation(root: Path, tmp_path: Path) -> None:
    """Its bar is drawn by a thread, which waits in the middle of a line once the terminal's buffer is full."""
    out = tmp_path / "out"
    reads, terminal = pty.openpty()
    program = f"import mpamatch.cli.lifetime as lifetime\nlifetime._UNMOVED_S = 2\n{PROGRAM}"
    child = subprocess.Popen(
        [sys.executable, "-c", program, *words_of(root, out, "--set", "steps_cold=5000")],
        env={**ENVIRONMENT, "TERM": "xterm"},
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
    )
    try:
        _wait_for_step(out / "cells" / "start" / "seed-0")
        _fill(os.ttyname(terminal))
        time.sleep(1)  # the bar is drawn ten times a second
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 75
    finally:
        child.kill()
        child.wait()
        os.close(terminal)
        os.close(reads)
    assert list((out / "cells" / "start" / "seed-0" / "round-0" / "checkpoint").iterdir())


def _wait_for_step(cell: Path, timeout_s: float = 100) -> None:
    until = time.monotonic() + timeout_s
    while not (cell / "progress.jsonl").is_file():
        assert time.monotonic() < until, "it did not begin to train"
        time.sleep(0.05)


def _fill(terminal: str) -> None:
    """Write until its buffer takes no more, which a process that waits for space would do as well."""
    here = os.open(terminal, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        while True:
            os.write(here, b".")
    except BlockingIOError:
        pass
    finally:
        os.close(here)


def test_an_unknown_strategy_is_refused_in_one_line(root: Path, tmp_path: Path) -> None:
    code, _, said = simulate(root, tmp_path / "out", "--strategies", "best")
    assert (code, said.count("\n")) == (1, 1)
    assert "strategy 'best': is unknown" in said
