from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mpamatch.errors import BadInput
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import Segmenter, build_segmenter
from mpamatch.network.weights import LoadedModel, ModelConfig, WorkingScale
from mpamatch.training import statistics
from mpamatch.training.statistics import batch_norms, pool_batches, reestimate_norms
from tests.mpamatch.tissue import CLASSES, draw, quick_recipe

pytestmark = pytest.mark.torch


def segmenter(encoder: nn.Module | None = None) -> Segmenter:
    model = build_segmenter(encoder_record("tiny"), 2, seed=0, pretrained=False).eval()
    if encoder is not None:
        model.encoder = encoder
    return model


def batches(count: int = 3, size_px: int = 64) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [2.0 * torch.randn(4, 3, size_px, size_px, generator=generator) + k for k in range(count)]


def test_statistics_of_one_layer_are_numpys_averaged_over_batches() -> None:
    model = segmenter(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)))
    convolution, norm = model.encoder
    assert reestimate_norms(model, batches()) == 3
    with torch.no_grad():
        seen = [convolution(batch).transpose(0, 1).flatten(1).double().numpy() for batch in batches()]
    assert norm.running_mean.numpy() == pytest.approx(np.mean([s.mean(axis=1) for s in seen], axis=0), abs=1e-5)
    variances = [s.var(axis=1, ddof=1) for s in seen]
    assert norm.running_var.numpy() == pytest.approx(np.mean(variances, axis=0), rel=1e-5)


def test_norms_alone_change_and_with_them_what_the_model_says() -> None:
    model = segmenter()
    before = copy.deepcopy(model.state_dict())
    said = model(batches()[0])
    reestimate_norms(model, batches())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(n.startswith("encoder.") and n.split(".")[-1].startswith(("running_", "num_")) for n in changed)
    assert sum(n.endswith("running_mean") for n in changed) == len(batch_norms(model))
    assert not torch.allclose(model(batches()[0]), said, atol=1e-3)
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert all(norm.momentum is not None for norm in batch_norms(model))


def test_the_same_batches_give_the_same_statistics_whatever_was_there_before() -> None:
    first, second = segmenter(), segmenter()
    reestimate_norms(second, batches(1))
    for model in (first, second):
        reestimate_norms(model, batches())
    states = first.state_dict(), second.state_dict()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_model_without_batch_norms_and_an_empty_pool_are_refused_and_nothing_changes() -> None:
    with pytest.raises(BadInput, match="no batch norm"):
        reestimate_norms(segmenter(nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4))), batches())
    model = segmenter()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(BadInput, match="images"):
        reestimate_norms(model, [])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def pool(images: dict[str, np.ndarray | None], seed: int = 0, **more: int) -> list[torch.Tensor]:
    config = ModelConfig("m", CLASSES, encoder_record("tiny"), WorkingScale(1.0), quick_recipe())
    loaded = LoadedModel(segmenter(), config)
    return list(pool_batches(loaded, [Path(n) for n in images], lambda p: images.get(p.name), seed=seed, **more))


def test_batches_show_many_images_and_depend_on_the_seed_alone() -> None:
    images = {f"{n}.png": np.full((80, 90, 3), 20 * n, np.uint8) for n in range(8)}
    made = pool(images, rounds=3)
    assert [tuple(b.shape) for b in made] == [(8, 3, 64, 64)] * 3
    for batch in made:
        assert len({float(tile.mean()) for tile in batch}) == 8
    drawn = {f"{n}.png": draw(n)[0] for n in range(8)}
    backwards = dict(reversed(drawn.items()))
    assert all(torch.equal(a, b) for a, b in zip(pool(drawn), pool(backwards), strict=True))
    assert not torch.equal(pool(drawn)[0], pool(drawn, seed=1)[0])


def test_an_image_is_read_once_where_its_patches_may_be_kept_and_the_batches_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = {f"{n}.png": draw(n)[0] for n in range(8)}
    config = ModelConfig("m", CLASSES, encoder_record("tiny"), WorkingScale(1.0), quick_recipe())
    loaded = LoadedModel(segmenter(), config)
    made: list[list[torch.Tensor]] = []
    for patches, reads in ((100, 8), (10, 16), (0, 32)):
        monkeypatch.setattr(statistics, "KEPT_BYTES", patches * 3 * config.recipe.patch_px**2)
        read: list[str] = []

        def image_of(path: Path, read: list[str] = read) -> np.ndarray:
            read.append(path.name)
            return images[path.name]

        made.append(list(pool_batches(loaded, [Path(n) for n in images], image_of, seed=0)))
        assert len(read) == reads
    assert all(torch.equal(a, b) and torch.equal(b, c) for a, b, c in zip(*made, strict=True))


def test_short_batches_small_images_and_unread_ones() -> None:
    images = {f"{n}.png": draw(n, side_px=30)[0] for n in range(3)}
    assert [tuple(b.shape) for b in pool(images, rounds=1)] == [(3, 3, 64, 64)]
    assert [len(b) for b in pool(images, rounds=3)] == [8]  # the ninth patch alone would weigh as much as eight
    assert [len(b) for b in pool({**images, "torn.png": None}, rounds=1)] == [3]
