"""Low-rank tuning that collapses ends as a frozen run, to the bit; one that holds as if it had never been watched."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from mpamatch.errors import BadInput, Cancelled
from mpamatch.network.encoders import catalogue
from mpamatch.network.weights import read_config
from mpamatch.training import run as training_run
from mpamatch.training.loop import TrainingLoop
from mpamatch.training.run_folder import train_run
from tests.mpamatch.network.small_vit import small_vit, write_weights
from tests.mpamatch.tissue import quick_recipe, write_run

pytestmark = pytest.mark.torch
RECORD = small_vit(bottleneck=32, decoder_widths=(32, 32, 16, 16))
STEPS, AT = 8, 4
COLLAPSING: dict[str, Any] = {"lora_lr": 1.0}
"""A rate at which the factors leave every sensible size in a few steps; a frozen run has no use for it."""
HOLDING: dict[str, Any] = {"lora_lr": 1e-3}
SAME = ("losses", "mask_ratio", "class_mask_ratio", "pool_tiles", "holdout", "temperature", "steps")


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "ENCODERS", {**catalogue.ENCODERS, RECORD.name: RECORD})
        yield


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("vendor"), RECORD)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, vendor: Path) -> Path:
    """A model that has learnt enough for a collapse to be one."""
    folder = tmp_path_factory.mktemp("start")
    knobs = {"method": "supervised", "tuning": "frozen", "steps_cold": 100, "vit_lr": 1e-2, "checkpoint_every": 100}
    _run(_write(folder, vendor, None, **knobs))
    return folder / "model"


Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, vendor: Path, start: Path) -> Writer:
    """A run folder by its name, warm from ``start`` unless told otherwise."""
    return lambda name, **more: _write(tmp_path / name, vendor, **{"start": start, **more})


def _write(folder: Path, vendor: Path, start: Path | None, labelled: int = 6, **knobs: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    values = {"encoder": RECORD.name, "tuning": "lora", "steps_cold": STEPS, "steps_warm": STEPS, "lora_guard_at": 0.5}
    values |= {"warmup": 0.0, "ema_decay": 0.9, "tau": 0.4, **knobs}
    return write_run(folder, recipe=quick_recipe(**values), labelled=labelled, start=start, weights_dir=str(vendor))


def _run(folder: Path, *, stop_after: int | None = None, seconds: Callable[[], float] = lambda: 0.0) -> dict[str, Any]:
    """Train the folder; ``stop_after`` that many steps of this process."""
    steps: list[int] = []
    return train_run(
        folder,
        clock=seconds,
        stop=lambda: stop_after is not None and len(steps) >= stop_after,
        tell=lambda e: steps.append(1) if e["event"] == "step" else None,
    )


def _events(folder: Path, name: str) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]
    return [row for row in rows if row["event"] == name]


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def _are_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return set(ours) == set(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("method", ["unimatch-ema", "mpamatch-image", "cps"])
def test_a_collapse_ends_as_the_frozen_run_and_is_said(write: Writer, method: str) -> None:
    ours_in, theirs_in = write("a", method=method, **COLLAPSING), write("b", method=method, tuning="frozen")
    ours, theirs = _run(ours_in), _run(theirs_in)
    guard = ours["lora_guard"]
    assert (guard["kept"], guard["step"], guard["limit"]) == ("frozen", AT, 1.5)
    assert guard["lora_loss"] > 1.5 * guard["frozen_loss"]
    assert _are_equal(_tensors(ours_in), _tensors(theirs_in))
    assert {k: ours[k] for k in SAME} == {k: theirs[k] for k in SAME}
    [note] = [n for n in ours["notes"] if n.startswith("low-rank tuning given up after 4 steps")]
    assert theirs["lora_guard"] is None
    assert not any("low-rank" in n for n in theirs["notes"])
    # Who looks at the last step sees it too, and it stays with the model.
    assert [e["notes"] for e in _events(ours_in, "guard")] == [[note]]
    assert _events(ours_in, "step")[-1]["notes"] == [note]
    assert read_config(ours_in).metrics["lora_guard"] == guard
    assert _events(theirs_in, "guard") == []


def test_the_rate_of_these_tests_does_collapse_a_run_that_nobody_watches(write: Writer) -> None:
    alone = _run(write("a", method="supervised", lora_guard=0, **COLLAPSING))
    frozen = _run(write("b", method="supervised", tuning="frozen"))
    assert alone["lora_guard"] is None
    assert alone["losses"]["x"] > 1.5 * frozen["losses"]["x"]


def test_tuning_that_holds_leaves_what_it_would_leave_unwatched(write: Writer) -> None:
    ours_in, theirs_in = write("a", **HOLDING), write("b", lora_guard=0, **HOLDING)
    ours, theirs = _run(ours_in), _run(theirs_in)
    assert ours["lora_guard"]["kept"] == "lora"
    assert any("lora" in key for key in _tensors(ours_in))
    assert _are_equal(_tensors(ours_in), _tensors(theirs_in))
    assert {k: ours[k] for k in (*SAME, "notes")} == {k: theirs[k] for k in (*SAME, "notes")}
    assert [e["kept"] for e in _events(ours_in, "guard")] == ["lora"]


@pytest.mark.method_line(33)
@pytest.mark.parametrize("knobs", [COLLAPSING, HOLDING], ids=["given up", "holds"])
def test_a_guarded_run_stopped_after_every_step_equals_an_unbroken_one(write: Writer, knobs: dict[str, Any]) -> None:
    unbroken, broken = (write(name, method="supervised", **knobs) for name in "ab")
    whole = _run(unbroken)
    for _ in range(AT + STEPS):
        with pytest.raises(Cancelled):
            _run(broken, stop_after=1)
    parts = _run(broken)
    assert whole["lora_guard"]["kept"] == ("lora" if knobs is HOLDING else "frozen")
    assert _are_equal(_tensors(broken), _tensors(unbroken))
    same = (*SAME, "lora_guard", "notes", "skipped_steps")
    assert {k: parts[k] for k in same} == {k: whole[k] for k in same}
    assert [e["step"] for e in _events(broken, "start")] == list(range(AT + STEPS + 1))


def test_a_torn_checkpoint_costs_steps_and_changes_nothing(write: Writer) -> None:
    """The one before is from before the comparison, which is made again."""
    unbroken, broken = (write(name, method="supervised", checkpoint_every=1, **COLLAPSING) for name in "ab")
    _run(unbroken)
    with pytest.raises(Cancelled):
        _run(broken, stop_after=2 * AT)
    newest = max((broken / "checkpoint").iterdir())
    assert newest.name == "step-000008"
    (newest / "tensors.safetensors").write_bytes(b"torn")
    _run(broken)
    assert [e["step"] for e in _events(broken, "start")] == [0, 7]
    assert len(_events(broken, "guard")) == 2
    assert _are_equal(_tensors(broken), _tensors(unbroken))


def test_losses_that_are_not_finite_end_the_tuning_and_not_the_run(
    write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also before the comparison is due."""
    real = TrainingLoop._gradients

    def broken(loop: TrainingLoop, *setting: Any) -> Any:
        sums = real(loop, *setting)
        if loop.recipe.tuning == "lora" and loop.step == 1 and sums is not None:
            sums.total = math.nan
        return sums

    monkeypatch.setattr(TrainingLoop, "_gradients", broken)
    knobs = {"method": "supervised", "non_finite_limit": 1, "non_finite_window": 1}
    ours_in, theirs_in = write("a", **knobs), write("b", tuning="frozen", **knobs)
    ours = _run(ours_in)
    _run(theirs_in)
    assert _are_equal(_tensors(ours_in), _tensors(theirs_in))
    assert (ours["lora_guard"]["step"], ours["lora_guard"]["lora_loss"]) == (1, None)
    assert any("its loss is not finite" in note for note in ours["notes"])
    steps = [(e["step"], e["steps"]) for e in _events(ours_in, "step")]
    assert steps == [(n, STEPS + AT) for n in range(1, AT + 2)] + [(n, STEPS + 1) for n in range(AT + 2, STEPS + 2)]
    with pytest.raises(BadInput, match="not finite"):
        _run(write("c", lora_guard=0, **knobs))


def test_without_tiles_kept_back_there_is_no_guard_and_that_is_said(write: Writer) -> None:
    folder = write("a", method="supervised", labelled=3, **HOLDING)
    result = _run(folder)
    assert result["lora_guard"] is None
    assert "low-rank tuning has no guard: no labelled tile is kept back" in result["notes"]
    assert [e["step"] for e in _events(folder, "step")] == list(range(1, STEPS + 1))


def test_the_guard_looks_at_tiles_kept_back_alone(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    looked, trained = [], []
    real_loss, real_streams = training_run.labelled_loss, training_run.Streams

    def loss(loaded: Any, tiles: Any) -> float:
        looked.append([tile.image.tobytes() for tile in tiles])
        return real_loss(loaded, tiles)

    def streams(labelled: Any, pool: Any, **options: Any) -> Any:
        trained.extend(options["reader"].read(s).image.tobytes() for s in (*labelled, *pool))
        return real_streams(labelled, pool, **options)

    monkeypatch.setattr(training_run, "labelled_loss", loss)
    monkeypatch.setattr(training_run, "Streams", streams)
    _run(write("a", method="supervised", **HOLDING))
    assert len(looked) == 2
    assert looked[0] == looked[1]
    assert len(looked[0]) == 1
    assert len(trained) == 5 + 4
    assert not set(looked[0]) & set(trained)


def test_a_later_run_that_collapses_keeps_the_changes_of_its_start(write: Writer) -> None:
    first = write("first", method="supervised", **HOLDING)
    _run(first)
    knobs = {"method": "supervised", "start": first / "model"}
    ours_in, theirs_in = write("a", **knobs, **COLLAPSING), write("b", tuning="frozen", **knobs)
    assert _run(ours_in)["lora_guard"]["kept"] == "frozen"
    _run(theirs_in)
    assert _are_equal(_tensors(ours_in), _tensors(theirs_in))
    begun = _tensors(first)
    factors = [key for key in begun if "lora" in key]
    assert factors
    assert all(torch.equal(_tensors(ours_in)[key], begun[key]) for key in factors)


def test_every_step_counts_in_what_people_see_and_the_time_left_falls_to_nothing(
    write: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second for a step with a frozen encoder, two for one whose low-rank changes learn."""
    now, folder = [0.0], write("a", method="supervised", **HOLDING)
    real = TrainingLoop._one_step

    def timed(loop: TrainingLoop) -> Any:
        now[0] += 1.0 if loop.recipe.tuning == "frozen" else 2.0
        return real(loop)

    monkeypatch.setattr(TrainingLoop, "_one_step", timed)
    result = _run(folder, seconds=lambda: now[0])
    steps = _events(folder, "step")
    assert [(e["step"], e["steps"]) for e in steps] == [(n, AT + STEPS) for n in range(1, AT + STEPS + 1)]
    left = [2.0 * STEPS + AT - n for n in range(1, AT)] + [2.0 * (STEPS - n) for n in range(STEPS + 1)]
    assert [e["eta_s"] for e in steps] == pytest.approx(left)
    assert _events(folder, "start")[0]["steps"] == AT + STEPS
    assert (result["steps"], result["seconds"]) == (STEPS, AT + 2.0 * STEPS)


def test_a_run_that_was_begun_by_a_version_without_a_guard_goes_on_without_one(write: Writer) -> None:
    unbroken, broken = (write(name, method="supervised", lora_guard=0, **HOLDING) for name in "ab")
    _run(unbroken)
    with pytest.raises(Cancelled):
        _run(broken, stop_after=2)
    run = json.loads((broken / "run.json").read_text())
    del run["recipe"]["lora_guard"]
    (broken / "run.json").write_text(json.dumps(run))
    assert _run(broken)["lora_guard"] is None
    assert _are_equal(_tensors(broken), _tensors(unbroken))
