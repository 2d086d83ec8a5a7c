"""Pseudo-labels held against labels of tiles that a run does not train on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mpamatch.domain.classes import IGNORE
from mpamatch.network.encoders import encoder_record
from mpamatch.training.kept_back import KeptBack
from mpamatch.training.loop import TrainingLoop
from mpamatch.training.run_folder import train_run
from mpamatch.training.views import Tile
from tests.mpamatch.tissue import quick_recipe, write_run

pytestmark = pytest.mark.torch
RECORD = encoder_record("tiny")


def _tile(mask: np.ndarray) -> Tile:
    return Tile(np.full((*mask.shape, 3), 200, np.uint8), mask)


def test_accuracy_is_that_of_labelled_pixels_that_reach_the_tau_of_their_class() -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, 1, IGNORE], np.uint8), (64, 64))
    drawn = torch.from_numpy(rng.random((64, 64)).astype(np.float32))
    shares = torch.stack([drawn, 1 - drawn])
    found = KeptBack([_tile(mask)], RECORD, 64).check(lambda image: shares[None], torch.tensor([0.6, 0.9]), 50)
    right = sure = pixels = 0
    for y, x in np.ndindex(64, 64):  # pixel by pixel, by the definition
        if mask[y, x] == IGNORE:
            continue
        pixels += 1
        guess = int(shares[1, y, x] > shares[0, y, x])
        if shares[guess, y, x] >= (0.6, 0.9)[guess]:
            sure += 1
            right += guess == mask[y, x]
    assert found is not None
    assert (found.step, found.pixels, found.share, found.accuracy) == (50, pixels, sure / pixels, right / sure)


def test_few_patches_from_all_tiles_and_none_without_a_label() -> None:
    blank, labelled = np.full((64, 64), IGNORE, np.uint8), np.zeros((128, 64), np.uint8)
    seen: list[torch.Size] = []

    def say(image: torch.Tensor) -> torch.Tensor:
        seen.append(image.shape)
        return torch.full((1, 2, 64, 64), 0.5)

    found = KeptBack([_tile(blank), *[_tile(labelled)] * 20], RECORD, 64).check(say, torch.full((2,), 0.9), 1)
    assert seen == [(1, 3, 64, 64)] * 8
    assert found is not None
    assert (found.accuracy, found.share, found.pixels) == (None, 0.0, 8 * 64 * 64)
    assert KeptBack([_tile(blank)], RECORD, 64).check(say, torch.full((2,), 0.9), 1) is None
    assert KeptBack([], RECORD, 64).check(say, torch.full((2,), 0.9), 1) is None


def _train(folder: Path, method: str, **knobs: Any) -> dict[str, Any]:
    ticks = itertools.count()
    recipe = quick_recipe(method, tau=0.4, **knobs)
    return train_run(write_run(folder, recipe=recipe, labelled=5), clock=lambda: float(next(ticks)))


@pytest.mark.parametrize("method", ["unimatch-ema", "unimatch", "cps"])
def test_a_check_changes_nothing_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    monkeypatch.setattr("mpamatch.training.run.CHECK_EVERY", 1)
    checked = _train(tmp_path / "a", method)
    monkeypatch.setattr(TrainingLoop, "check", lambda loop, kept_back: None)
    unchecked = _train(tmp_path / "b", method)
    assert checked["pseudo_labels"]["share"] > 0
    assert unchecked["pseudo_labels"] is None
    weights = [(tmp_path / run / "model" / "model.safetensors").read_bytes() for run in ("a", "b")]
    assert weights[0] == weights[1]


def test_there_is_nothing_to_check_without_pseudo_labels_or_tiles_kept_back(tmp_path: Path) -> None:
    assert _train(tmp_path / "a", "supervised")["pseudo_labels"] is None
    assert _train(tmp_path / "b", "unimatch-ema", holdout_share=0.0)["pseudo_labels"] is None
