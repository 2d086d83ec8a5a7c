"""Two real processes on gloo train one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.mpamatch.tissue import quick_recipe, write_run

pytestmark = [pytest.mark.torch, pytest.mark.processes, pytest.mark.timeout(600)]

# Batch norms keep their statistics, so that what one process sees at once does not matter to another; FAULT may raise.
PROGRAM = """
import functools, sys
import torch
import mpamatch.training.first_model as first_model
import mpamatch.training.run_folder as run_folder
from mpamatch.training.peers import local_place
from tests.mpamatch.training.frozen_norms import freeze_batch_norms

real = first_model.build_segmenter
def frozen(*arguments, **options):
    model = real(*arguments, **options)
    freeze_batch_norms(model)
    return model

def before_share(step, parts):
    {fault}

first_model.build_segmenter = frozen
run_folder.train_run = functools.partial(run_folder.train_run, before_share=before_share)
from mpamatch.cli import main
main(["train", "--run", sys.argv[1]])
"""
ONE_IS_SHORT = "if parts == 1 and step == 3 and local_place() == 1: raise torch.OutOfMemoryError('CUDA out of memory')"
RECIPE = {"tau": 0.4, "steps_cold": 6, "labelled_batch": 4, "unlabelled_batch": 4, "strong_views": 2}


def _train(folder: Path, processes: int, fault: str = "pass") -> dict[str, Any]:
    write_run(folder, recipe=quick_recipe(**RECIPE), labelled=5)  # type: ignore[arg-type]
    program = folder / "program.py"
    program.write_text(PROGRAM.format(fault=fault))
    command = [sys.executable, str(program), str(folder)]
    if processes > 1:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        command = [*torchrun, "--nproc-per-node", str(processes), *command[1:]]
    root = str(Path(__file__).resolve().parents[3])
    threads = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return dict(json.loads((folder / "result.json").read_text()))


def _steps(folder: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == "step"]


def _weights(folder: Path) -> torch.Tensor:
    state = load_file(folder / "model" / "model.safetensors")
    return torch.cat([state[name].float().flatten() for name in sorted(state)])


def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    """Only the order in which gradients are added differs, so that rounding is all that is allowed."""
    one = _train(tmp_path / "one", 1)
    two = _train(tmp_path / "two", 2)
    assert (one["processes"], one["batch_parts"], two["processes"], two["batch_parts"]) == (1, 1, 2, 1)
    for ours, theirs in zip(_steps(tmp_path / "two"), _steps(tmp_path / "one"), strict=True):
        assert ours["losses"] == pytest.approx(theirs["losses"], rel=1e-3, abs=1e-5)
        assert ours["mask_ratio"] == pytest.approx(theirs["mask_ratio"], abs=1e-3)
    difference = _weights(tmp_path / "two") - _weights(tmp_path / "one")
    assert float(difference.norm()) < 0.01 * float(_weights(tmp_path / "one").norm())
    assert len(_steps(tmp_path / "two")) == 6, "the first process alone writes"


def test_when_one_of_two_is_short_of_memory_both_halve_and_go_on(tmp_path: Path) -> None:
    result = _train(tmp_path, 2, ONE_IS_SHORT)
    assert [row["batch_parts"] for row in _steps(tmp_path)] == [1, 1, 1, 2, 2, 2]
    assert any("out of memory" in note for note in result["notes"])
