"""A run folder whose plan says ``adapt``: norms alone change, by the seed alone, and no figure comes along."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mpamatch.errors import BadInput, Cancelled
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import build_segmenter
from mpamatch.network.weights import ModelConfig, WorkingScale, load_model, save_model
from mpamatch.training import adapt_run
from mpamatch.training.run_folder import train_run
from mpamatch.training.run_spec import RunSpec, read_run
from tests.mpamatch.tissue import CLASSES, quick_recipe, write_run

pytestmark = pytest.mark.torch
FIGURES = {"holdout": {"mdice": 0.9}, "losses": {"x": 0.1}}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that was really trained."""
    folder = write_run(tmp_path_factory.mktemp("start"), recipe=quick_recipe("supervised"), labelled=4)
    return Path(_run(folder)["model"])


def _run(folder: Path, **options: Any) -> dict[str, Any]:
    ticks = itertools.count()
    return train_run(folder, clock=lambda: float(next(ticks)), **options)


def _adapting(folder: Path, start: Path, *, pool: int = 12, **more: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_run(folder, labelled=0, pool=pool, start=start, adapt=True, start_version="glands-m3", **more)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder).module.state_dict()


def _events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]


def _is_statistic(name: str) -> bool:
    return name.startswith("encoder.") and name.rsplit(".", 1)[-1] in (
        "running_mean",
        "running_var",
        "num_batches_tracked",
    )


def test_norms_change_and_every_weight_stays_to_the_bit(tmp_path: Path, start: Path) -> None:
    result = _run(_adapting(tmp_path, start))
    before, after = _tensors(start), _tensors(tmp_path / "model")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(map(_is_statistic, changed))
    assert {n for n in before if _is_statistic(n) and not n.endswith("tracked")} == {
        n for n in changed if not n.endswith("tracked")
    }
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["adapted"] == {"from": "glands-m3", "images": 12, "batches": 6, "seed": 0, "rounds": 4}
    assert "no label was learnt" in result["notes"][0]


def test_the_model_says_what_it_was_adapted_from_and_carries_no_figure_of_that(tmp_path: Path, start: Path) -> None:
    old = load_model(start)
    begin = tmp_path / "start"
    save_model(begin, old.module, replace(old.config, metrics=FIGURES, temperature=1.5), texts=old.texts)
    result = _run(_adapting(tmp_path / "run", begin))
    config = load_model(tmp_path / "run" / "model").config
    assert (config.version, config.metrics) == ("test-m1", {})
    assert config.provenance == {**old.config.provenance, "adapted": result["adapted"]}
    assert (config.classes, config.recipe, config.temperature) == (old.config.classes, old.config.recipe, 1.5)
    assert not {"holdout", "audit", "losses", "labelled_classes", "held_back"} & set(result)


def test_the_seed_decides_and_a_stopped_run_starts_again_to_the_same_model(tmp_path: Path, start: Path) -> None:
    whole, again, other = (_adapting(tmp_path / n, start, seed=s) for n, s in (("a", 3), ("b", 3), ("c", 4)))
    calls = itertools.count(1)
    with pytest.raises(Cancelled):
        _run(again, stop=lambda: next(calls) >= 3)
    assert not (again / "model").exists()
    for folder in (whole, again, other):
        _run(folder)
    bytes_of = [(f / "model" / "model.safetensors").read_bytes() for f in (whole, again, other)]
    assert bytes_of[0] == bytes_of[1]
    assert bytes_of[0] != bytes_of[2]
    assert not (again / "checkpoint").exists()


def test_batches_are_told_as_steps_and_without_losses(tmp_path: Path, start: Path) -> None:
    told: list[Any] = []
    _run(_adapting(tmp_path, start), tell=told.append)
    events = _events(tmp_path)
    assert events == told
    assert [e["event"] for e in events] == ["start", *["step"] * 6, "done"]
    assert [(e["step"], e["steps"]) for e in events[1:-1]] == [(n, 6) for n in range(1, 7)]
    assert events[0]["adapts"] == "glands-m3"
    assert not any("losses" in e for e in events)
    assert events[-2]["eta_s"] == 0


def test_a_picture_that_is_damaged_is_left_out_and_named(tmp_path: Path, start: Path) -> None:
    folder = _adapting(tmp_path, start)
    (folder / "tiles" / "image-1002").write_bytes(b"torn")
    (folder / "tiles" / "image-1003").unlink()
    result = _run(folder)
    assert result["adapted"]["images"] == 10
    assert sorted(note.partition(" left out")[0] for note in result["notes"][1:]) == [
        "pool tile 1002",
        "pool tile 1003",
    ]


def test_the_scale_of_each_tile_counts_where_the_model_knows_its_own(tmp_path: Path, start: Path) -> None:
    old = load_model(start)
    begin = tmp_path / "start"
    save_model(begin, old.module, replace(old.config, scale=WorkingScale(1.0, um_per_px=1.0)))
    models = []
    for name, um_per_px in (("near", 1.0), ("far", 0.5)):
        folder = _adapting(tmp_path / name, begin)
        plan = json.loads((folder / "run.json").read_text())
        plan["pool"] = [{**row, "um_per_px": um_per_px} for row in plan["pool"]]
        (folder / "run.json").write_text(json.dumps(plan))
        _run(folder)
        models.append((folder / "model" / "model.safetensors").read_bytes())
    assert models[0] != models[1]


def test_an_encoder_without_batch_norm_is_refused_in_the_words_of_the_statistics(tmp_path: Path) -> None:
    model = build_segmenter(encoder_record("tiny"), 2, seed=0, pretrained=False)
    _without_norms(model.encoder)
    config = ModelConfig("m", CLASSES, encoder_record("tiny"), WorkingScale(1.0), quick_recipe())
    folder = _adapting(tmp_path / "run", tmp_path / "start")

    class Unnormed(adapt_run.AdaptRun):
        def _start(self) -> Any:
            return adapt_run.LoadedModel(model.eval(), config)

    with pytest.raises(BadInput, match="has no batch norm in its encoder"):
        Unnormed(folder, read_run(folder), lambda: 0.0, lambda: False, lambda event, **values: None, "cpu").adapt()


def _without_norms(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.modules.batchnorm._BatchNorm):
            setattr(module, name, nn.Identity())
        else:
            _without_norms(child)


def test_nothing_to_adapt_and_nothing_to_adapt_to_end_a_run(tmp_path: Path, start: Path) -> None:
    with pytest.raises(BadInput, match="adapts no model"):
        _run(write_run(tmp_path, labelled=0, adapt=True))
    folder = _adapting(tmp_path / "torn", start, pool=2)
    for image in (folder / "tiles").glob("image-*"):
        image.write_bytes(b"torn")
    with pytest.raises(BadInput, match="none to take statistics from"):
        _run(folder)


def test_a_training_on_a_pool_without_a_label_stays_refused(tmp_path: Path, start: Path) -> None:
    with pytest.raises(BadInput, match="no labelled pixel in any tile"):
        _run(write_run(tmp_path, labelled=0, start=start))


def test_the_adapted_model_is_a_start_as_any_other(tmp_path: Path, start: Path) -> None:
    adapted = _run(_adapting(tmp_path / "adapted", start))["model"]
    result = _run(write_run(_made(tmp_path / "next"), recipe=quick_recipe("supervised"), start=Path(adapted)))
    assert result["start"] == "test-m1"
    assert result["steps"] == 4, "warm: the short schedule"


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_the_plan_is_written_and_read_with_the_wish_and_one_without_it_says_nothing_new(tmp_path: Path) -> None:
    folder = _adapting(tmp_path, tmp_path / "start")
    spec = read_run(folder)
    assert (spec.adapt, spec.start_version) == (True, "glands-m3")
    assert spec.to_json()["adapt"] is True
    assert not {"adapt", "start_version"} & set(RunSpec(0, quick_recipe(), CLASSES, "m", (), ()).to_json())
