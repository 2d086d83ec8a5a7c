import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput
from mpamatch.files.model_archive import LIMITS_BYTES
from mpamatch.network.branch import BranchShape
from mpamatch.network.encoders import EncoderRecord, encoder_record, with_options
from mpamatch.network.encoders.tokens import Published
from mpamatch.network.lora import LoraLinear, merge_lora
from mpamatch.network.model import Segmenter, add_branch, build_segmenter
from mpamatch.network.tuning import make_teacher, parameter_groups, prepare_tuning, tuning_mode
from mpamatch.training.moving_average import MovingAverage
from tests.mpamatch.network.small_vit import DEPTH, small_vit
from tests.mpamatch.tissue import quick_recipe

pytestmark = pytest.mark.torch


def _model(record: EncoderRecord | None = None) -> Segmenter:
    return build_segmenter(record or small_vit(), 2, seed=0, pretrained=False)


def _prepared(tuning: str, record: EncoderRecord | None = None, **knobs: Any) -> tuple[Segmenter, Recipe]:
    recipe = quick_recipe(tuning=tuning, **knobs)
    model = _model(record)
    prepare_tuning(model, recipe, seed=1)
    return model, recipe


def _images() -> Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def _training(model: Segmenter) -> set[str]:
    return {name for name, p in model.encoder.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["light", "tiny"])
def test_a_pyramids_groups_are_encoder_decoder_and_head_with_matrices_first(name: str) -> None:
    model, recipe = _prepared("auto", encoder_record(name))
    wanted = []
    for part, rate in ((model.encoder, 0.3 * 3e-3), (model.decoder, 3e-3), (model.head, 3e-3)):
        parameters = list(part.parameters())
        wanted.append(([id(p) for p in parameters if p.ndim > 1], rate, recipe.weight_decay))
        wanted.append(([id(p) for p in parameters if p.ndim <= 1], rate, 0.0))
    groups = parameter_groups(model, recipe)
    assert [([id(p) for p in g["params"]], g["lr"], g["weight_decay"]) for g in groups] == wanted


def test_auto_is_full_but_for_plain_transformers_and_low_rank_needs_one() -> None:
    modes = {
        name: tuning_mode(encoder_record(name), quick_recipe()) for name in ("light", "tiny", "uni", "in-r50-vitb")
    }
    assert modes == {"light": "full", "tiny": "full", "uni": "lora", "in-r50-vitb": "full"}
    with pytest.raises(BadInput, match="no transformer"):
        _prepared("lora", encoder_record("tiny"))


def test_a_frozen_encoder_keeps_to_eval_takes_no_gradient_and_its_decoder_learns() -> None:
    model, recipe = _prepared("frozen", encoder_record("tiny"))
    model.train()
    before = {name: t.clone() for name, t in model.encoder.state_dict().items()}
    assert not model.encoder.training
    assert model.decoder.training
    features = model.features(_images())
    assert not any(f.requires_grad for f in features)
    model(_images()).sum().backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    assert all(p.grad is not None for p in model.decoder.parameters())
    assert all(torch.equal(before[name], t) for name, t in model.encoder.state_dict().items())
    trained = {id(p) for g in parameter_groups(model, recipe) for p in g["params"]}
    assert trained == {id(p) for part in (model.decoder, model.head) for p in part.parameters()}


@pytest.mark.method_line(32)
@pytest.mark.parametrize("tuning", ["frozen", "lora", "partial", "full"])
def test_a_teacher_shares_what_does_not_train_and_copies_the_rest(tuning: str) -> None:
    model, _ = _prepared(tuning)
    teacher = make_teacher(model)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    for (name, ours), theirs in zip(model.named_parameters(), teacher.parameters(), strict=True):
        assert (ours is theirs) == (not ours.requires_grad), name
    frozen = {name: p.clone() for name, p in model.named_parameters() if not p.requires_grad}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 1
    MovingAverage(teacher, model).follow(0.9)
    assert all(torch.equal(p, frozen[name]) for name, p in model.named_parameters() if name in frozen)
    assert not torch.equal(teacher.head.weight, model.head.weight)


def test_partial_trains_the_last_blocks_and_the_final_norm() -> None:
    model, recipe = _prepared("partial", partial_blocks=2)
    assert {name.split(".")[2] for name in _training(model) if ".blocks." in name} == {"2", "3"}
    assert {name for name in _training(model) if ".blocks." not in name} == {"vit.norm.weight", "vit.norm.bias"}
    assert {g["lr"] for g in parameter_groups(model, recipe)} == {recipe.vit_encoder_lr, recipe.vit_lr}
    pyramid, _ = _prepared("partial", encoder_record("tiny"), partial_blocks=1)
    assert {".".join(name.split(".")[:3]) for name in _training(pyramid)} == {"blocks.4.0"}
    pyramid.train()
    norms = {name: m.training for name, m in pyramid.encoder.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name.startswith("blocks.4.0") for name, training in norms.items() if training} == {True}
    assert not all(norms.values())


def test_full_rates_fall_by_block_and_embeddings_learn_least() -> None:
    model, recipe = _prepared("full", block_lr_decay=0.5)
    rates = {id(p): g["lr"] for g in parameter_groups(model, recipe) for p in g["params"]}
    top, vit = recipe.vit_encoder_lr, model.encoder.vit
    for index, block in enumerate(vit.blocks):
        assert {rates[id(p)] for p in block.parameters()} == {top * 0.5 ** (DEPTH - 1 - index)}
    assert rates[id(vit.norm.weight)] == top
    assert {rates[id(p)] for p in (vit.pos_embed, vit.cls_token, vit.patch_embed.proj.weight)} == {top * 0.5**DEPTH}
    assert {rates[id(p)] for p in model.decoder.parameters()} == {recipe.vit_lr}
    assert set(rates) == {id(p) for p in model.parameters()}


def test_embeddings_gates_and_biases_do_not_decay() -> None:
    base = small_vit()
    model = _model(with_options(replace(base, kwargs={**base.kwargs, "reg_tokens": 2}), skips="stem"))
    model.extra = nn.Module()
    model.extra.gamma, model.extra.matrix = (nn.Parameter(torch.zeros(2, 3)) for _ in range(2))
    recipe = quick_recipe(tuning="full")
    prepare_tuning(model, recipe)
    decay = {id(p): g["weight_decay"] for g in parameter_groups(model, recipe) for p in g["params"]}
    names = {name for name, p in model.named_parameters() if decay[id(p)] == 0 and p.ndim > 1}
    tokens = {f"encoder.vit.{name}" for name in ("pos_embed", "cls_token", "reg_token")}
    assert names == tokens | {"extra.gamma"}
    assert all(decay[id(p)] == 0 for p in model.parameters() if p.ndim <= 1)
    assert decay[id(model.extra.matrix)] == recipe.weight_decay


@pytest.mark.parametrize("record", [encoder_record("tiny"), small_vit()], ids=["pyramid", "transformer"])
def test_what_learns_with_the_texts_has_a_rate_of_its_own_and_does_not_decay(record: EncoderRecord) -> None:
    model, recipe = _model(record), quick_recipe("mpamatch", tuning="frozen")
    add_branch(model, BranchShape(8, per_class=2, text_width=12, attention=True), seed=0)
    prepare_tuning(model, recipe)
    branch = model.branch
    assert branch is not None
    assert branch.projection is not None
    *others, words = parameter_groups(model, recipe)
    assert [id(p) for p in words["params"]] == [id(branch.projection.weight), id(branch.text_scale)]
    assert (words["lr"], words["weight_decay"]) == (1e-3, 0.0)
    assert {g["lr"] for g in others} == {recipe.lr if record.family == "cnn" else recipe.vit_lr}
    rest = [id(p) for g in (*others, words) for p in g["params"]]
    assert sorted(rest) == sorted(id(p) for p in model.parameters() if p.requires_grad), "each once"
    plain = _model(record)
    add_branch(plain, BranchShape(8, per_class=2, text_width=0), seed=0)
    assert all(g["lr"] != 1e-3 for g in parameter_groups(plain, recipe))


def test_low_rank_changes_start_at_nothing_and_are_all_that_trains_in_the_encoder() -> None:
    plain = _model().eval()
    model, recipe = _prepared("lora", lora_rank=3)
    with torch.no_grad():
        assert torch.equal(model.eval()(_images()), plain(_images()))
    adapted = [name for name, m in model.encoder.named_modules() if isinstance(m, LoraLinear)]
    assert adapted == [f"vit.blocks.{n}.attn.{part}" for n in range(DEPTH) for part in ("qkv", "proj")]
    assert _training(model) == {f"{name}.lora_{part}" for name in adapted for part in ("down", "up")}
    rates = {id(p): g["lr"] for g in parameter_groups(model, recipe) for p in g["params"]}
    assert {rates[id(p)] for p in model.encoder.parameters() if p.requires_grad} == {recipe.lora_lr}
    model.train()(_images()).sum().backward()
    up = model.encoder.get_submodule("vit.blocks.0.attn.qkv").lora_up
    assert up.grad is not None
    assert float(up.grad.abs().max()) > 0
    assert torch.equal(
        _prepared("lora")[0].encoder.state_dict()["vit.blocks.0.attn.qkv.lora_down"],
        _prepared("lora")[0].encoder.state_dict()["vit.blocks.0.attn.qkv.lora_down"],
    )


def test_merged_changes_compute_the_same_under_the_plain_keys() -> None:
    model, _ = _prepared("lora")
    with torch.no_grad():
        for name, parameter in model.encoder.named_parameters():
            if name.endswith("lora_up"):
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    merged = copy.deepcopy(model)
    merge_lora(merged.encoder)
    assert set(merged.state_dict()) == set(_model().state_dict())
    with torch.no_grad():
        ours = model.eval()(_images())
        assert not torch.allclose(ours, _model().eval()(_images()), atol=1e-3)
        assert torch.allclose(merged.eval()(_images()), ours, atol=1e-4)


@pytest.mark.parametrize(("tuning", "changed"), [("frozen", False), ("lora", False), ("partial", True), ("full", True)])
def test_an_encoder_counts_as_changed_once_its_own_weights_train(tuning: str, changed: bool) -> None:
    model = _model()
    model.encoder.published = Published("someone", "0" * 64)
    prepare_tuning(model, quick_recipe(tuning=tuning))
    assert model.encoder.published.changed is changed


def test_a_changed_encoder_that_no_model_could_hold_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LIMITS_BYTES, "model.safetensors", 1000)
    with pytest.raises(BadInput, match="lora or frozen"):
        _prepared("full")
    _prepared("lora")


def test_a_large_transformer_trained_whole_keeps_few_activations_and_gets_the_same_gradient() -> None:
    uni = encoder_record("uni")
    record = replace(uni, kwargs={**uni.kwargs, "depth": 2, "mlp_ratio": 1}, depth=2)
    plain, (spared, _) = _model(record), _prepared("full", record)
    assert spared.encoder.vit.grad_checkpointing
    for model in (plain, spared):
        model.train()(_images()).sum().backward()
    for ours, theirs in zip(spared.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad)  # type: ignore[arg-type]
