"""Whole runs with prototypes: what a model keeps of them, what a run that starts from it goes on with, what is told."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mpamatch.domain.classes import ClassSet, TissueClass
from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput, Unavailable
from mpamatch.inference import Predictor
from mpamatch.network.weights import CONFIG_NAME, load_model
from mpamatch.training import first_model
from mpamatch.training.first_model import settled_texts, texts_of
from mpamatch.training.run_folder import train_run
from mpamatch.training.run_spec import read_run
from tests.mpamatch.tissue import draw, quick_recipe, write_run

pytestmark = pytest.mark.torch


def _recipe(method: str = "mpamatch", **knobs: Any) -> Recipe:
    return quick_recipe(method, **{"tau": 0.4, "prototype_start": 0.2, "prototype_ramp_end": 0.4, **knobs})


def _train(folder: Path) -> dict[str, Any]:
    ticks = itertools.count()
    return train_run(folder, clock=lambda: float(next(ticks)))


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("start"), recipe=_recipe(), labelled=5)
    _train(folder)
    return folder


def test_a_model_keeps_its_prototypes_exactly_and_what_its_texts_learnt(started: Path) -> None:
    loaded = load_model(started / "model")
    branch = loaded.module.branch
    assert branch is not None
    assert branch.bank is not None
    assert torch.allclose(branch.bank.rows[branch.bank.active].norm(dim=1), torch.tensor(1.0), atol=1e-6)
    assert loaded.config.branch["per_class"] == 3
    assert loaded.config.branch["texts"]
    assert set(loaded.texts) == {"context"}
    assert bool(branch.text_vectors.any())
    state = load_file(started / "model" / "model.safetensors")
    assert state["branch.bank.rows"].dtype == torch.float32
    look = Predictor(loaded).look(draw(0)[0])
    assert look.probabilities.shape == (2, 80, 80)
    assert look.image_posterior is not None
    assert look.text_posterior is not None
    assert look.disagreement is not None
    assert look.disagreement.shape == (20, 20)


def test_what_a_run_tells_of_its_prototypes(started: Path) -> None:
    rows = [json.loads(line) for line in (started / "progress.jsonl").read_text().splitlines()]
    steps = [row for row in rows if row["event"] == "step"]
    assert "image" not in steps[0]["losses"]
    assert {"x", "u", "image", "text", "total"} == set(steps[-1]["losses"])
    assert len(steps[-1]["class_mask_ratio"]) == 2
    assert steps[-1]["prototypes"]["used"] > 0
    result = json.loads((started / "result.json").read_text())
    assert result["prototypes"]["share_of_steps"] == pytest.approx(6 / 8)
    assert {"image", "text"} < set(result["losses"])
    assert len(result["class_mask_ratio"]) == 2
    picture = Image.open(io.BytesIO((started / "curves.png").read_bytes()))
    assert picture.width > 1000
    assert len({tuple(p) for p in np.asarray(picture.convert("RGB")).reshape(-1, 3)[::97]}) > 5


def test_tensorboard_reads_what_a_run_wrote(started: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(started / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"loss/x", "loss/image", "mask_ratio/class 1", "prototypes/used", "weight/prototype"} <= tags
    assert {"pseudo_labels/accuracy", "weight/labelled", "images_per_s", "peak_memory_mib"} <= tags
    assert [e.step for e in events.Scalars("pseudo_labels/share")] == [8], "of a step that was checked, once"
    assert [e.step for e in events.Scalars("loss/x")] == list(range(1, 9))


@pytest.mark.parametrize(("least", "ends_well"), [(2, True), (100, False)])
def test_prototypes_begin_in_smaller_passes_where_memory_runs_out(tmp_path: Path, least: int, ends_well: bool) -> None:
    passes: list[int] = []

    def short(step: int, parts: int) -> None:
        passes.append(parts)
        if parts < least and not any(p >= least for p in passes):
            raise torch.OutOfMemoryError("CUDA out of memory")

    folder = write_run(tmp_path, recipe=_recipe(labelled_batch=2, prototype_start=0.0), labelled=3)
    ticks = itertools.count()
    if not ends_well:
        with pytest.raises(Unavailable, match="prototypes: a single view of"):
            train_run(folder, clock=lambda: float(next(ticks)), before_share=short)
        return
    train_run(folder, clock=lambda: float(next(ticks)), before_share=short)
    assert passes[:2] == [1, 2]
    assert set(passes[2:5]) == {2}, "a batch of two and one of one view, in passes of one"
    assert set(passes[5:]) == {1}, "a step takes its batch whole again: it has a size of its own"
    branch = load_model(folder / "model").module.branch
    assert branch is not None
    assert branch.bank is not None
    assert bool(branch.bank.ready.all())


@pytest.mark.method_line(36)
def test_a_short_retrain_keeps_its_prototypes_on_all_along(started: Path, tmp_path: Path) -> None:
    result = _train(write_run(tmp_path, recipe=_recipe(), labelled=5, start=started / "model"))
    assert result["steps"] == 4
    assert result["prototypes"]["share_of_steps"] >= 0.6
    before, after = (load_model(f / "model").module.branch for f in (started, tmp_path))
    assert before is not None
    assert after is not None
    assert before.bank is not None
    assert after.bank is not None
    assert int(after.bank.updates) == int(before.bank.updates) + 4
    cosine = (before.bank.rows * after.bank.rows).sum(dim=-1)[before.bank.active]
    assert float(cosine.min()) > 0.5


def test_other_prompts_keep_rows_but_not_the_warm_ramp(started: Path, tmp_path: Path) -> None:
    recipe = _recipe(prompts="T-sim", steps_warm=8)
    folder = write_run(tmp_path, recipe=recipe, labelled=5, start=started / "model")
    result = _train(folder)
    assert any("their texts changed" in note for note in result["notes"])
    assert result["prototypes"]["share_of_steps"] < 1


def test_a_new_class_gets_rows_and_the_known_ones_keep_theirs(started: Path, tmp_path: Path) -> None:
    classes = ClassSet.from_names(["background", "tumour", "gland"])
    folder = write_run(tmp_path, recipe=_recipe(), labelled=5, start=started / "model", classes=classes)
    result = _train(folder)
    assert result["steps"] == 8, "a changed class list trains on the cold schedule"
    before, after = (load_model(f / "model").module.branch for f in (started, tmp_path))
    assert before is not None
    assert after is not None
    assert before.bank is not None
    assert after.bank is not None
    assert int(after.bank.updates) > int(before.bank.updates), "kept rows keep their momentum"
    cosine = (before.bank.rows[0] * after.bank.rows[0]).sum(dim=-1)
    assert float(cosine.min()) > 0.5


def test_a_method_without_prototypes_leaves_those_of_its_start_behind(started: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path, recipe=quick_recipe("unimatch-ema", tau=0.4), labelled=5, start=started / "model")
    result = _train(folder)
    loaded = load_model(tmp_path / "model")
    assert loaded.module.branch is None
    assert loaded.config.branch == {}
    assert any("prototypes of test-m1 not used" in note for note in result["notes"])


def test_a_method_without_texts_leaves_those_of_its_start_behind(started: Path, tmp_path: Path) -> None:
    folder = write_run(tmp_path, recipe=_recipe("mpamatch-image"), start=started / "model")
    first = first_model.first_model(read_run(folder), "cpu")
    assert any("prototypes of test-m1 not used" in note for note in first.notes)
    assert first.texts is None


def test_a_branch_of_a_size_that_no_recipe_asks_for_is_refused(started: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((started / "model" / "model.safetensors").read_bytes())
    config = json.loads((started / "model" / CONFIG_NAME).read_text())
    nothing_to_see = {"attention": True, "per_class": 0, "text_width": 0}
    for change in ({"channels": 10_000_000}, {"per_class": -1}, {"channels": 128}, nothing_to_see):
        (folder / CONFIG_NAME).write_text(json.dumps({**config, "branch": {**config["branch"], **change}}))
        with pytest.raises(BadInput, match="do not fit"):
            load_model(folder)


def test_texts_of_the_class_set_go_before_those_of_the_prompt_set(tmp_path: Path) -> None:
    named = ClassSet((TissueClass(0, "background", "#000000"), TissueClass(1, "gland", "#ffffff", ("my own words",))))
    texts = texts_of(read_run(write_run(tmp_path, recipe=_recipe(), classes=named)))
    assert texts[1] == ("my own words",)
    assert texts[0]
    assert texts[0] != ("my own words",)


@pytest.mark.filterwarnings("ignore:Glyph")  # of names that the picture's font lacks
def test_classes_that_the_text_encoder_takes_for_the_same_train_without_texts(tmp_path: Path) -> None:
    classes = ClassSet.from_names(["background", "腺体", "间质"])
    result = _train(write_run(tmp_path, recipe=_recipe(), labelled=5, classes=classes))
    assert result["method"] == "mpamatch-image"
    assert "text" not in result["losses"]
    (note,) = (note for note in result["notes"] if "texts not used" in note)
    assert "腺体, 间质" in note
    assert "background" not in note
    assert "English names" in note
    branch = load_model(tmp_path / "model").module.branch
    assert branch is not None
    assert branch.bank is not None
    assert branch.projection is None


@pytest.mark.filterwarnings("ignore:Glyph")  # of names that the picture's font lacks
def test_where_texts_are_all_that_a_method_has_they_must_differ(tmp_path: Path) -> None:
    classes = ClassSet.from_names(["background", "腺体", "间质"])
    with pytest.raises(BadInput, match="腺体, 间质: text encoder minilm takes them for the same") as caught:
        _train(write_run(tmp_path, recipe=_recipe("mpamatch-text"), labelled=5, classes=classes))
    assert "\n" not in str(caught.value)
    texts = ("glandular epithelium", "loose stroma")
    named = ClassSet(
        tuple(
            TissueClass(c.id, c.name, c.colour, p)
            for c, p in zip(classes.classes, (("slide background",), *((t,) for t in texts)), strict=True)
        )
    )
    folder = write_run(tmp_path / "own", recipe=_recipe("mpamatch-text"), labelled=5, classes=named)
    assert "text" in _train(folder)["losses"]


@pytest.mark.parametrize("text", ["learned", "shuffled"])
def test_controls_without_the_words_of_the_classes_stay(tmp_path: Path, text: str) -> None:
    classes = ClassSet.from_names(["background", "腺体", "间质"])
    spec = read_run(write_run(tmp_path, recipe=_recipe(text=text), classes=classes))
    assert settled_texts(spec) == (spec.recipe, None)


def test_a_decoder_that_looks_at_prototypes_trains_and_is_kept(tmp_path: Path) -> None:
    result = _train(write_run(tmp_path, recipe=_recipe(prototype_attention=True), labelled=5))
    assert result["steps"] == 8
    loaded = load_model(tmp_path / "model")
    branch = loaded.module.branch
    assert branch is not None
    assert branch.attention is not None
    assert float(branch.attention.gamma.detach().abs().max()) > 0
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = loaded.module(image).detach()
    with torch.no_grad():
        branch.attention.gamma.fill_(0)
    assert not torch.equal(loaded.module(image).detach(), before)


def test_a_run_without_a_pool_draws_no_empty_panel(tmp_path: Path) -> None:
    _train(write_run(tmp_path, recipe=quick_recipe("supervised"), labelled=5))
    assert Image.open(tmp_path / "curves.png").width == 500
