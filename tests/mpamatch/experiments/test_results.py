"""What the document of an experiment makes of cells whose figures are known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpamatch.datasets import phantom
from mpamatch.experiments.catalogue import find_experiment
from mpamatch.experiments.picture import draw
from mpamatch.experiments.plans import CELL_RESULT
from mpamatch.experiments.protocol import Cell, Protocol, plan_cells
from mpamatch.experiments.results import COSTS, SCORES, collect, finite
from mpamatch.experiments.tables import as_markdown, sizes

RIGHT = [[40, 10], [10, 40]]
BETTER = [[45, 5], [5, 45]]


def figures(cell: Cell, mdice: float) -> dict[str, Any]:
    """A cell's result with that mean Dice, of two images that only its fold has."""
    matrix = RIGHT if cell.arm == "supervised" else BETTER
    per_image = [{"image": f"{cell.fold}-{number}", "confusion": matrix} for number in range(2)]
    return {
        "arm": cell.arm,
        "seed": cell.seed,
        "fold": cell.fold,
        "recipe_sha256": "0",
        "labelled_images": 2,
        "reduction": 1.0,
        **dict.fromkeys(COSTS, 10),
        "val": {**dict.fromkeys(SCORES, mdice), "images": 2, "per_image": per_image},
    }


def document(
    tmp_path: Path,
    differences: dict[tuple[int, int], float],
    only: tuple[str, ...] = ("supervised", "fixmatch"),
    regime: str = "few",
) -> dict[str, Any]:
    """A ladder of two arms whose second is better by so much in each seed and fold."""
    phantom.write_folder(tmp_path / "drawn", tiles=8, groups=6, size_px=64)
    seeds = len({seed for seed, _ in differences})
    folds = len({fold for _, fold in differences})
    protocol = Protocol("phantom", tmp_path / "drawn", "quick", seeds, folds=folds, regime=regime)
    experiment = find_experiment("ladder", only=only)
    cells = plan_cells(experiment, protocol)
    for cell in cells:
        assert cell.fold is not None
        gain = 0.0 if cell.arm == "supervised" else differences[cell.seed, cell.fold]
        (tmp_path / "out" / cell.place).mkdir(parents=True)
        (tmp_path / "out" / cell.place / CELL_RESULT).write_text(json.dumps(figures(cell, 0.5 + gain)))
    return collect(experiment, protocol, cells, tmp_path / "out")


def test_folds_of_a_seed_are_one_value_of_the_paired_statistics(tmp_path: Path) -> None:
    # Seed 0: mean 0.03; seed 1: mean 0.01. By hand: 0.02 +- 12.7062 * 0.01 * sqrt(2) / sqrt(2).
    found = document(tmp_path, {(0, 0): 0.02, (0, 1): 0.04, (1, 0): -0.01, (1, 1): 0.03})
    (row,) = [d for d in found["differences"] if d["score"] == "mdice"]
    assert (row["n"], row["up"], row["down"]) == (2, 2, 0)
    assert (row["mean"], row["low"], row["high"]) == pytest.approx((0.02, 0.02 - 0.127062, 0.02 + 0.127062), abs=1e-6)
    assert [pair["difference"] for pair in row["pairs"]] == pytest.approx([0.02, 0.04, -0.01, 0.03])
    # 45 of 50 instead of 40 of 50 for each class, in every image of every fold.
    assert row["bootstrap"] == pytest.approx([0.1, 0.1])
    assert "Student's t over seeds, each the mean of its folds" in found["protocol"]["interval"]
    page = as_markdown(found)
    assert "| fixmatch - supervised | val | mean | 2 | +0.0200 |" in page
    assert "Differences count seeds" in page


def test_one_seed_over_folds_has_no_t(tmp_path: Path) -> None:
    found = document(tmp_path, {(0, 0): 0.02, (0, 1): 0.04})
    (row,) = [d for d in found["differences"] if d["score"] == "mdice"]
    assert (row["n"], row["low"], row["high"]) == (1, None, None)
    assert row["mean"] == pytest.approx(0.03)


def test_arms_without_their_baseline_are_told_and_compared_with_nothing(tmp_path: Path) -> None:
    found = finite(document(tmp_path, {(0, 0): 0.02, (0, 1): 0.04}, only=("fixmatch", "cps")))
    assert found["differences"] == []
    assert "Not compared, since the baseline was left out: cps (with supervised), fixmatch (with supervised)." in (
        as_markdown(found)
    )
    draw(found, tmp_path / "results.png")
    assert find_experiment("ladder", only=("fixmatch", "cps")).left_out == ["supervised"]
    assert find_experiment("ladder").left_out == []


def test_the_page_says_what_the_pool_is_and_at_which_size_it_was_scored(tmp_path: Path) -> None:
    page = as_markdown(document(tmp_path, {(0, 0): 0.02, (0, 1): 0.04}, regime="sparse"))
    assert "`pool`: of the train images what is outside their boxes" in page
    assert "Dice at the images' own size, of whole images" in page
    assert sizes([1.0, 2.0]) == "the images' own size and 1/2 of the images' size"
