import fcntl
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput, Cancelled, Conflict, NotFound
from mpamatch.inference import Predictor
from mpamatch.network.weights import load_model
from mpamatch.training import run as training_run
from mpamatch.training import run_folder
from mpamatch.training.run_folder import train_run
from mpamatch.training.run_spec import read_run
from tests.mpamatch.tissue import CLASSES, draw, quick_recipe, write_run, write_tile

pytestmark = pytest.mark.torch


def _clock() -> Callable[[], float]:
    ticks = itertools.count()
    return lambda: float(next(ticks))


def _train(folder: Path, **options: Any) -> dict[str, Any]:
    return train_run(folder, clock=_clock(), **options)


def _stop_after(calls: int) -> Callable[[], bool]:
    count = itertools.count(1)
    return lambda: next(count) >= calls


def _events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_model_a_result_and_its_progress(tmp_path: Path) -> None:
    folder = write_run(tmp_path, recipe=quick_recipe(tau=0.4), labelled=5)
    result = _train(folder)
    events = _events(folder)
    assert [e["event"] for e in events] == ["start", *["step"] * 8, "done"]
    assert {"step", "steps", "losses", "mask_ratio", "pool_tiles", "eta_s", "seconds_per_step"} <= set(events[5])
    assert set(events[5]["losses"]) == {"x", "u", "total"}
    first, last = events[1], events[8]
    assert (first["labelled_weight"], first["unlabelled_weight"], last["unlabelled_weight"]) == (0.5, 0.0, 0.5)
    # Two labelled tiles a step, then two of the pool as well, in the clock's one second.
    assert (first["images_per_s"], last["images_per_s"]) == (2.0, 4.0)
    assert last["peak_memory_mib"] > 50
    assert first["pseudo_labels"] is None
    assert last["pseudo_labels"] == result["pseudo_labels"]
    assert result["pseudo_labels"]["step"] == 8
    assert result["pseudo_labels"]["pixels"] > 0
    assert result == json.loads((folder / "result.json").read_text())
    assert result["steps"] == 8
    assert result["pool_tiles"] == 4
    assert result["mask_ratio"] > 0
    assert result["held_back"]["by"] == "group"
    assert len(result["held_back"]["tiles"]) == 1
    assert result["holdout"]["images"] == 1
    loaded = load_model(folder / "model")
    assert loaded.config.version == "test-m1"
    assert loaded.config.classes == CLASSES
    assert loaded.config.provenance["encoder_weights"] == "none: trained from scratch"
    assert Predictor(loaded).predict(draw(0)[0]).shape == (2, 80, 80)


def test_a_stopped_run_resumed_equals_an_unbroken_one(tmp_path: Path) -> None:
    recipe = quick_recipe(tau=0.4)
    whole = _train(write_run(tmp_path / "a", recipe=recipe, labelled=5))
    folder = write_run(tmp_path / "b", recipe=recipe, labelled=5)
    for stop in (2, 3):
        with pytest.raises(Cancelled):
            _train(folder, stop=_stop_after(stop))
        assert not (folder / "result.json").exists()
    # The one before it stays, for when the latest cannot be read.
    kept = sorted(p.name for p in (folder / "checkpoint").iterdir())
    assert kept == ["step-000003", "step-000005"]
    parts = _train(folder)
    for name in ("model.safetensors",):
        assert (folder / "model" / name).read_bytes() == (tmp_path / "a" / "model" / name).read_bytes()
    same = ("losses", "mask_ratio", "pool_tiles", "holdout", "temperature", "steps")
    assert {k: parts[k] for k in same} == {k: whole[k] for k in same}
    assert [e["step"] for e in _events(folder) if e["event"] == "start"] == [0, 2, 5]


def test_a_run_that_was_cut_behind_its_last_step_tells_the_same(tmp_path: Path) -> None:
    """Also where the disk took half a line of its progress."""
    recipe = quick_recipe(tau=0.4)
    whole = _train(write_run(tmp_path / "a", recipe=recipe, labelled=5))
    folder = write_run(tmp_path / "b", recipe=recipe, labelled=5)
    with pytest.raises(Cancelled):
        _train(folder, stop=_stop_after(8))
    with (folder / "progress.jsonl").open("a") as progress:
        progress.write('{"event": "step", "step": 8, "lo')
    again = _train(folder)
    assert len(whole["class_mask_ratio"]) == 2
    clock = ("seconds", "model")
    assert {k: v for k, v in again.items() if k not in clock} == {k: v for k, v in whole.items() if k not in clock}
    assert (folder / "curves.png").is_file()


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    folder = write_run(tmp_path)
    first = _train(folder)
    written = (folder / "progress.jsonl").read_text()
    assert _train(folder) == first
    assert (folder / "progress.jsonl").read_text() == written


def test_an_empty_pool_trains_on_labels_alone_and_says_so(tmp_path: Path) -> None:
    result = _train(write_run(tmp_path, pool=0))
    assert result["pool_tiles"] == 0
    said = "the pool is empty: trained on labels alone"
    assert said in result["notes"]
    assert said in _events(tmp_path)[0]["notes"]


def test_tiles_kept_back_are_neither_labelled_nor_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path, labelled=6)
    run = json.loads((folder / "run.json").read_text())
    run["pool"] += [{k: v for k, v in row.items() if k != "mask"} for row in run["labelled"]]
    (folder / "run.json").write_text(json.dumps(run))
    seen: dict[str, set[int]] = {}
    real = training_run.Streams

    def spy(labelled: Any, pool: Any, **options: Any) -> Any:
        seen.update(labelled={s.tile for s in labelled}, pool={s.tile for s in pool})
        return real(labelled, pool, **options)

    monkeypatch.setattr(training_run, "Streams", spy)
    kept = set(_train(folder)["held_back"]["tiles"])
    assert kept
    assert not kept & (seen["labelled"] | seen["pool"])
    assert len(seen["labelled"]) == 5
    assert len(seen["pool"]) == 4 + 5


def test_a_warm_start_begins_with_the_starts_weights(tmp_path: Path) -> None:
    _train(write_run(tmp_path / "a"))
    folder = write_run(tmp_path / "b", start=tmp_path / "a" / "model")
    result = _train(folder)
    assert result["steps"] == 4
    assert result["start"] == "test-m1"
    assert _events(folder)[0]["warm"] is True


def test_a_start_from_elsewhere_keeps_its_weights_and_takes_the_whole_schedule(tmp_path: Path) -> None:
    _train(write_run(tmp_path / "a"))
    folder = write_run(tmp_path / "b", start=tmp_path / "a" / "model", full_schedule=True)
    result = _train(folder)
    assert (result["steps"], result["start"]) == (8, "test-m1")
    assert not result["notes"]


def test_a_fresh_head_on_the_starts_encoder_is_said_and_takes_the_whole_schedule(tmp_path: Path) -> None:
    _train(write_run(tmp_path / "a"))
    result = _train(write_run(tmp_path / "b", start=tmp_path / "a" / "model", fresh_head=True))
    assert (result["steps"], result["start"]) == (8, "test-m1")
    assert "as asked: new head on the encoder and decoder of test-m1" in result["notes"][0]


@pytest.mark.method_line(36)
def test_a_changed_class_list_starts_cold_with_a_new_head(tmp_path: Path) -> None:
    _train(write_run(tmp_path / "a"))
    classes = ClassSet.from_names(["background", "gland", "stroma"])
    result = _train(write_run(tmp_path / "b", start=tmp_path / "a" / "model", classes=classes))
    assert result["steps"] == 8
    assert load_model(tmp_path / "b" / "model").config.classes == classes
    assert any("class list changed" in note for note in result["notes"])


def test_partly_labelled_tiles_train_and_unlabelled_ones_are_left_out(tmp_path: Path) -> None:
    folder = write_run(tmp_path, labelled=2)
    run = json.loads((folder / "run.json").read_text())
    partly = np.full((80, 80), 255, np.uint8)
    partly[10:20, 10:20] = 1
    run["labelled"] = [
        write_tile(tmp_path / "tiles", 50, partly),
        write_tile(tmp_path / "tiles", 51, np.full((80, 80), 255, np.uint8)),
    ]
    (folder / "run.json").write_text(json.dumps(run))
    assert _train(folder)["labelled_tiles"] == 1


def test_a_tile_whose_labels_vanish_at_the_working_scale_is_left_out_and_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path, labelled=2, recipe=quick_recipe(reduction=4.0))
    run = json.loads((folder / "run.json").read_text())
    thin = np.full((80, 80), 255, np.uint8)
    thin[40, 40] = 1
    run["labelled"].append(write_tile(tmp_path / "tiles", 50, thin))
    (folder / "run.json").write_text(json.dumps(run))
    result = _train(folder)
    assert result["labelled_tiles"] == 2
    assert any(note.startswith("tile 50 left out") for note in result["notes"])
    alone = write_run(tmp_path / "alone", labelled=0, recipe=quick_recipe(reduction=4.0))
    (alone / "run.json").write_text(json.dumps({**run, "labelled": run["labelled"][-1:]}))
    with pytest.raises(BadInput, match="no labelled pixel in any tile"):
        _train(alone)


def test_one_bad_tile_is_left_out_and_said(tmp_path: Path) -> None:
    folder = write_run(tmp_path, labelled=3)
    rows = json.loads((folder / "run.json").read_text())["labelled"]
    Path(rows[0]["mask"]).write_bytes(b"no mask")
    Path(rows[1]["image"]).write_bytes(b"no image")
    result = _train(folder)
    assert result["labelled_tiles"] == 1
    assert len([n for n in result["notes"] if "left out" in n]) == 2


def test_nothing_usable_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        _train(write_run(tmp_path, labelled=0))


def test_two_processes_never_train_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_LOCK_PAUSE_S", 0.0)
    folder = write_run(tmp_path)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Conflict):
            _train(folder)
    assert _train(folder)["steps"] == 8


@pytest.mark.parametrize(
    "change", [{"seed": "x"}, {"recipe": {"tau": 5}}, {"labelled": [{"tile": 1}]}, {"classes": None}, {"pool": 3}]
)
def test_a_wrong_run_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_run(tmp_path)
    run = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(run | change))
    with pytest.raises(BadInput):
        read_run(folder)


def test_a_run_spec_comes_back_from_json(tmp_path: Path) -> None:
    spec = read_run(write_run(tmp_path))
    (tmp_path / "run.json").write_text(json.dumps(spec.to_json()))
    assert read_run(tmp_path) == spec


def test_a_missing_folder_or_run_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        _train(tmp_path / "nowhere")
    with pytest.raises(NotFound):
        _train(tmp_path)


def test_audit_tiles_are_scored_in_the_end_and_never_trained_on(tmp_path: Path) -> None:
    plain = _train(write_run(tmp_path / "a"))
    rows = [write_tile(tmp_path / "audit", 500 + n) for n in range(4)]
    Path(rows[2]["mask"]).write_bytes(b"broken")
    Path(rows[3]["image"]).write_bytes(Path(rows[3]["image"]).read_bytes()[:4000])
    folder = write_run(tmp_path / "b", audit=rows)
    result = _train(folder)
    assert result["audit"]["images"] == 2
    assert 0 < result["audit"]["mdice"] <= 1
    assert all(any(f"audit tile {n} left out" in note for note in result["notes"]) for n in (502, 503))
    assert plain["audit"] is None
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]
