"""Models on an encoder whose weights may not be passed on: written without them, loaded with the vendor's file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from mpamatch.errors import BadInput, Unavailable
from mpamatch.files.model_archive import LIMITS_BYTES
from mpamatch.network.encoders import EncoderRecord, catalogue
from mpamatch.network.model import Segmenter, build_segmenter
from mpamatch.network.tuning import prepare_tuning
from mpamatch.network.weights import ModelConfig, WorkingScale, load_model, save_model
from tests.mpamatch.network.small_vit import small_vit, write_weights
from tests.mpamatch.tissue import CLASSES, quick_recipe

pytestmark = pytest.mark.torch
BOUND = small_vit()
FREE = small_vit(redistributable=True, licence="Apache-2.0", gated=False)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "ENCODERS", {**catalogue.ENCODERS, BOUND.name: BOUND})


def _images() -> Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _trained(folder: Path, tuning: str, record: EncoderRecord = BOUND) -> tuple[Segmenter, Tensor]:
    """A model whose trainable parts have moved, and its answer; the vendor's file lies beside it in ``vendor``."""
    model = build_segmenter(record, 2, seed=0, weights_dir=write_weights(folder / "vendor", record))
    recipe = quick_recipe(tuning=tuning, encoder=record.name)
    prepare_tuning(model, recipe)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter += (0.2 if "lora" in name else 0.02) * torch.randn(
                    parameter.shape, generator=torch.Generator().manual_seed(7)
                )
    save_model(folder / "model", model, ModelConfig("test-m1", CLASSES, record, WorkingScale(), recipe))
    with torch.no_grad():
        return model, model.eval()(_images())


@pytest.mark.parametrize("tuning", ["frozen", "lora"])
def test_a_model_without_its_encoder_says_so_and_computes_the_same_with_the_vendors_file(
    tmp_path: Path, tuning: str
) -> None:
    _, answer = _trained(tmp_path, tuning)
    kept = load_file(tmp_path / "model" / "model.safetensors")
    assert all("lora" in key for key in kept if key.startswith("encoder."))
    assert any("lora" in key for key in kept) == (tuning == "lora")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert "CC-BY-NC-ND-4.0; its weights are not included" in config["notice"]
    loaded = load_model(tmp_path, weights_dir=tmp_path / "vendor")
    assert loaded.config.notice == config["notice"]
    with torch.no_grad():
        assert torch.allclose(loaded.module(_images()), answer, atol=2e-2)  # what half precision leaves


def test_training_on_from_such_a_model_keeps_the_changes_it_came_with(tmp_path: Path) -> None:
    _, answer = _trained(tmp_path, "lora")
    loaded = load_model(tmp_path, weights_dir=tmp_path / "vendor")
    prepare_tuning(loaded.module, loaded.config.recipe, seed=3)
    save_model(tmp_path / "next", loaded.module, loaded.config)
    again = load_model(tmp_path / "next", weights_dir=tmp_path / "vendor")
    with torch.no_grad():
        assert torch.allclose(again.module(_images()), answer, atol=2e-2)
        for name, parameter in again.module.named_parameters():
            if name.endswith("lora_up"):
                parameter.zero_()
        assert not torch.allclose(again.module(_images()), answer, atol=0.1)


def test_without_the_vendors_file_one_line_says_what_to_do_and_nothing_else_is_wrong(tmp_path: Path) -> None:
    _trained(tmp_path, "frozen")
    with pytest.raises(Unavailable) as caught:
        load_model(tmp_path)
    assert "https://huggingface.co/someone/small-vit" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_file_than_that_of_the_training_is_refused(tmp_path: Path) -> None:
    _trained(tmp_path, "lora")
    with pytest.raises(Unavailable, match="not the file that the model was trained on"):
        load_model(tmp_path, weights_dir=write_weights(tmp_path / "other", BOUND, seed=6))


def test_a_changed_encoder_is_kept_and_the_notice_says_what_that_means(tmp_path: Path) -> None:
    _, answer = _trained(tmp_path, "full")
    loaded = load_model(tmp_path)
    assert loaded.config.left_out is None
    assert "not to be passed on" in str(loaded.config.notice)
    with torch.no_grad():
        assert torch.allclose(loaded.module(_images()), answer, atol=2e-2)


def test_a_free_encoder_goes_with_the_model_its_changes_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "ENCODERS", {**catalogue.ENCODERS, FREE.name: FREE})
    model, answer = _trained(tmp_path, "lora", FREE)
    loaded = load_model(tmp_path)
    assert loaded.config.notice is None
    assert not any("lora" in key for key in loaded.module.state_dict())
    assert any("lora" in key for key in model.state_dict())
    with torch.no_grad():
        assert torch.allclose(loaded.module(_images()), answer, atol=2e-2)
    monkeypatch.setitem(LIMITS_BYTES, "model.safetensors", 20_000_000)
    _trained(tmp_path / "large", "lora", FREE)
    assert load_model(tmp_path / "large").config.left_out is None
    monkeypatch.setitem(LIMITS_BYTES, "model.safetensors", 10_000)
    _trained(tmp_path / "small", "lora", FREE)
    monkeypatch.undo()
    monkeypatch.setattr(catalogue, "ENCODERS", {**catalogue.ENCODERS, FREE.name: FREE})
    assert load_model(tmp_path / "small", weights_dir=tmp_path / "small" / "vendor").config.left_out is not None


@pytest.mark.parametrize("change", [{"lora_rank": 10**6}, {"sha256": "x"}, {"lora_rank": "many"}, {"other": 1}])
def test_a_config_that_lies_about_its_encoder_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    _trained(tmp_path, "lora")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["encoder_left_out"] = {} if "other" in change else {**config["encoder_left_out"], **change}
    path.write_text(json.dumps(config))
    with pytest.raises(BadInput):
        load_model(tmp_path, weights_dir=tmp_path / "vendor")


def test_a_licence_corrected_later_leaves_models_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _trained(tmp_path, "frozen")
    corrected = replace(BOUND, licence="another", licence_verified=False)
    monkeypatch.setattr(catalogue, "ENCODERS", {**catalogue.ENCODERS, BOUND.name: corrected})
    load_model(tmp_path, weights_dir=tmp_path / "vendor")
