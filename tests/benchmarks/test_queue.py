from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks._maps import BATCH, WHO, copies, make_maps
from benchmarks.queue import Load, measure, monai_label, peers
from tests.contracts.reference import ROOT

# Others read these names.
FIGURES = {"next_p95_ms": 10.0, "next_during_rerank_p95_ms": 100.0, "rerank_s": 8.0, "rerank_gib": 1.0}


@pytest.mark.processes
@pytest.mark.embedded
def test_a_small_pool_gives_every_figure_with_its_bound() -> None:
    figures = measure(Load(tiles=200, orders=1, annotators=2, rest_s=0.5))
    assert {key: figures[key].bound for key in FIGURES} == FIGURES
    assert all(figures[key].value > 0 for key in FIGURES)
    assert "800 regions on 200 tiles" in (figures["rerank_s"].reference or "")


@pytest.mark.parametrize("file", sorted((ROOT / "benchmarks").glob("[!_]*.py")), ids=lambda file: file.stem)
def test_what_make_bench_runs_starts_as_a_file_beside_the_queue_of_the_standard_library(file: Path) -> None:
    words = [sys.executable, str(file), "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout or file.stem == "report"


def test_a_strategy_of_others_that_fails_is_named_and_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    figures = peers("false", scenes=20)
    assert {key.split("_")[1] for key in figures} == {"ours"}
    assert "baal BALD" in capfd.readouterr().err
    assert monai_label("false", sizes=(10,)) == {}


def test_the_next_sample_of_others_is_timed_with_and_without_its_note(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho \'{"version": "1", "chosen_ms": [1, 2], "noted_ms": [3, 4]}\'\n')
    python.chmod(0o755)
    figures = monai_label(str(python), sizes=(10,), repeats=2)
    assert figures["monai_label_random_10_p95_ms"].value == 2
    assert figures["monai_label_next_10_p95_ms"].value == 4


def test_our_batches_of_drawn_maps_hold_fewer_copies_than_the_greedy_one(tmp_path) -> None:
    make_maps(tmp_path, scenes=150)
    picks = {name: WHO["ours"][0](tmp_path, name) for name in ("mpamatch", "entropy")}
    assert all(len(set(rows)) == BATCH for rows in picks.values())
    assert copies(tmp_path, picks["mpamatch"]) < copies(tmp_path, picks["entropy"]) / 2


def test_a_copy_is_what_lies_close_to_a_label_or_an_earlier_pick(tmp_path) -> None:
    rows = np.eye(120, dtype=np.float32)
    rows[101], rows[102] = rows[0], rows[103]
    np.save(tmp_path / "embeddings.npy", rows)
    assert copies(tmp_path, [101, 102, 103, 104]) == 2
