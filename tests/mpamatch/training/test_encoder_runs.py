"""Runs on a transformer whose weights come from a file: trained, stopped, resumed, begun from one another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mpamatch.errors import Cancelled, NotFound
from mpamatch.network.encoders import catalogue
from mpamatch.network.weights import load_model
from mpamatch.training.run_folder import train_run
from tests.mpamatch.network.small_vit import small_vit, write_weights
from tests.mpamatch.tissue import quick_recipe, write_run

pytestmark = pytest.mark.torch
RECORD = small_vit()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "ENCODERS", {**catalogue.ENCODERS, RECORD.name: RECORD})


def _run(folder: Path, tuning: str, *, stop_after: int | None = None, **more: Any) -> dict[str, Any]:
    knobs: dict[str, Any] = {"tuning": tuning, "encoder": RECORD.name, "steps_cold": 4, "tau": 0.4}
    if not (folder / "run.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        vendor = write_weights(folder.parent / "vendor", RECORD)
        write_run(folder, recipe=quick_recipe(**knobs), **{"weights_dir": str(vendor), **more})
    steps: list[int] = []
    stop: Callable[[], bool] = lambda: stop_after is not None and len(steps) >= stop_after  # noqa: E731
    return train_run(
        folder, clock=lambda: 0.0, stop=stop, tell=lambda e: steps.append(1) if e["event"] == "step" else None
    )


@pytest.mark.parametrize("tuning", ["frozen", "auto", "full"])
def test_a_run_on_a_vendors_weights_resumes_as_an_unbroken_one(tmp_path: Path, tuning: str) -> None:
    _run(tmp_path / "a", tuning)
    with pytest.raises(Cancelled):
        _run(tmp_path / "b", tuning, stop_after=2)
    [checkpoint] = (tmp_path / "b" / "checkpoint").iterdir()
    kept = load_file(checkpoint / "tensors.safetensors")
    shared = [key for key in kept if key.startswith("teacher.encoder.vit.") and "lora" not in key]
    assert bool(shared) == (tuning == "full")
    _run(tmp_path / "b", tuning)
    ours, theirs = (load_file(tmp_path / n / "model" / "model.safetensors") for n in "ab")
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_runs_card_names_weights_and_licence_and_a_later_run_goes_on(tmp_path: Path) -> None:
    _run(tmp_path / "a", "lora", stop_after=None)
    config = load_model(tmp_path / "a", weights_dir=tmp_path / "vendor").config
    assert config.provenance["encoder_licence"] == "CC-BY-NC-ND-4.0"
    assert config.provenance["encoder_weights"] == "someone/small-vit (small-vit.safetensors)"
    second = _run(tmp_path / "b", "lora", start=tmp_path / "a" / "model")
    assert second["start"] == "test-m1"
    assert second["steps"] == 4


def test_a_run_without_the_weights_ends_with_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"request access at https://huggingface.co/someone/small-vit"):
        _run(tmp_path / "a", "lora", weights_dir=None)


def test_tiles_of_quite_another_scale_than_the_encoders_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    knobs: dict[str, Any] = {"encoder": RECORD.name, "steps_cold": 1}
    write_run(folder, recipe=quick_recipe(**knobs), weights_dir=str(write_weights(tmp_path / "vendor", RECORD)))
    run = json.loads((folder / "run.json").read_text())
    for row in run["labelled"]:
        row["um_per_px"] = 2.0
    (folder / "run.json").write_text(json.dumps(run))
    notes = train_run(folder, clock=lambda: 0.0)["notes"]
    assert any("tiles are seen at 2 um/px, and encoder small-vit was made at 0.5" in note for note in notes)
