"""``skips=auto``: settled by the size of what is labelled when a model is first built, and never again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mpamatch.domain.classes import ClassSet
from mpamatch.domain.recipe import Recipe
from mpamatch.files.rasters import encode_raster
from mpamatch.network.encoders import catalogue
from mpamatch.network.weights import load_model, read_config
from mpamatch.training.run_folder import train_run
from tests.mpamatch.network.small_vit import small_vit, write_weights
from tests.mpamatch.tissue import quick_recipe, write_run

pytestmark = pytest.mark.torch
RECORD = small_vit(bottleneck=32, decoder_widths=(32, 32, 16, 16))


@pytest.fixture(autouse=True, scope="module")
def registered() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "ENCODERS", {**catalogue.ENCODERS, RECORD.name: RECORD})
        yield


def _run(folder: Path, *, mask: np.ndarray | None = None, **more: Any) -> dict[str, Any]:
    """Two steps on three tiles of 80 px, a disc of 40 px in each; ``mask`` in place of theirs. ``more``: knobs."""
    folder.mkdir(parents=True)
    vendor = write_weights(folder.parent / "vendor", RECORD)
    own = {name: more.pop(name) for name in ("start", "classes") if name in more}
    knobs = {"encoder": RECORD.name, "tuning": "frozen", "method": "supervised", "skips": "auto", "steps_cold": 2}
    write_run(folder, recipe=quick_recipe(**{**knobs, **more}), weights_dir=str(vendor), **own)
    if mask is not None:
        for row in json.loads((folder / "run.json").read_text())["labelled"]:
            Path(row["mask"]).write_bytes(encode_raster(mask))
    return train_run(folder, clock=lambda: 0.0)


def _dots(side_px: int = 80) -> np.ndarray:
    """Nine squares of 10 px and one of 40: as an area of labels the large one is most of it."""
    mask = np.zeros((side_px, side_px), np.uint8)
    for n in range(6):
        mask[2 : 2 + 10, 13 * n : 13 * n + 10] = 1
    for n in range(3):
        mask[15 + 13 * n : 25 + 13 * n, :10] = 1
    mask[30:70, 30:70] = 1
    return mask


def _settled(folder: Path) -> str:
    """What a model says in both places, its decoder agreeing."""
    config = read_config(folder / "model")
    assert config.recipe.skips == config.encoder.skips
    module = load_model(folder / "model", weights_dir=folder.parent / "vendor").module
    assert (module.stem is not None) == (config.encoder.skips == "stem")
    return config.encoder.skips


def test_small_objects_get_a_stem_and_large_ones_none(tmp_path: Path) -> None:
    large = _run(tmp_path / "large")
    small = _run(tmp_path / "small", mask=_dots())
    assert (_settled(tmp_path / "large"), _settled(tmp_path / "small")) == ("none", "stem")
    assert "skips=auto is none: the median object is 40 px across" in large["notes"]
    assert "skips=auto is stem: the median object is 11 px across" in small["notes"]


def test_objects_are_measured_at_the_scale_that_the_model_sees(tmp_path: Path) -> None:
    _run(tmp_path / "a", reduction=2.0)
    assert _settled(tmp_path / "a") == "stem"


def test_the_bound_is_a_knob_and_what_is_settled_is_as_if_asked_for(tmp_path: Path) -> None:
    _run(tmp_path / "a", stem_below_px=60.0)
    _run(tmp_path / "b", skips="stem")
    assert _settled(tmp_path / "a") == "stem"
    ours, theirs = (load_file(tmp_path / name / "model" / "model.safetensors") for name in "ab")
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_without_any_object_there_is_no_stem(tmp_path: Path) -> None:
    result = _run(tmp_path / "a", mask=np.zeros((80, 80), np.uint8))
    assert _settled(tmp_path / "a") == "none"
    assert "skips=auto is none: no object is labelled" in result["notes"]


@pytest.mark.parametrize(("first", "later", "skips"), [(_dots(), None, "stem"), (None, _dots(), "none")])
def test_a_later_run_keeps_what_its_start_was_built_with(
    tmp_path: Path, first: np.ndarray | None, later: np.ndarray | None, skips: str
) -> None:
    _run(tmp_path / "first", mask=first)
    start = tmp_path / "first" / "model"
    result = _run(tmp_path / "later", mask=later, start=start)
    assert (_settled(tmp_path / "later"), result["start"]) == (skips, "test-m1")
    assert result["notes"] == [f"skips=auto is {skips}, as in test-m1"]
    classes = ClassSet.from_names(["background", "gland", "stroma"])
    renamed = _run(tmp_path / "renamed", mask=later, start=start, classes=classes)
    assert (_settled(tmp_path / "renamed"), renamed["start"]) == (skips, "test-m1")


def test_a_start_that_cannot_be_gone_on_from_settles_nothing(tmp_path: Path) -> None:
    _run(tmp_path / "first", mask=_dots(), decoder_norm="batch")
    result = _run(tmp_path / "later", start=tmp_path / "first" / "model")
    assert (_settled(tmp_path / "later"), result["start"]) == ("none", None)


def test_an_encoder_with_finer_features_of_its_own_takes_none(tmp_path: Path) -> None:
    result = _run(tmp_path / "a", mask=_dots(), encoder="tiny", tuning="auto")
    assert _settled(tmp_path / "a") == "none"
    assert not any("skips" in note for note in result["notes"])


def test_the_strong_preset_asks_for_it_and_the_papers_does_not() -> None:
    found = {name: Recipe.for_profile("medium", preset=name).skips for name in ("strong", "paper", "bn", "light")}
    assert found == {"strong": "auto", "paper": "none", "bn": "none", "light": "none"}
