from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from mpamatch.network.branch import BranchShape
from mpamatch.network.encoders import encoder_record
from mpamatch.network.looking import (
    DROPPED_BLOCKS,
    channel_keeps,
    look_at,
    look_at_cells,
    look_with_dropout,
    posteriors,
)
from mpamatch.network.model import Segmenter, add_branch, build_segmenter
from tests.mpamatch.network.small_vit import small_vit

pytestmark = pytest.mark.torch

CLASSES, PER_CLASS, TEMPERATURE = 3, 2, 0.1


def _unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def _model(record: Any = None, *, per_class: int = PER_CLASS, text_width: int = 5, branch: bool = True) -> Segmenter:
    model = build_segmenter(record or encoder_record("tiny"), CLASSES, seed=0, pretrained=False).eval()
    if not branch:
        return model
    add_branch(model, BranchShape(16, per_class, text_width), seed=1)
    assert model.branch is not None
    if model.branch.bank is not None:
        model.branch.bank.rows.copy_(_unit(CLASSES, per_class, 16, seed=2))
        model.branch.bank.active.fill_(True)
    if text_width:
        model.branch.text_vectors.copy_(_unit(CLASSES, text_width, seed=3))
    return model.eval()


def _images(count: int = 2, side: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(4))


def _softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("record", [None, small_vit()], ids=["pyramid", "transformer"])
def test_a_look_is_one_forward_pass_and_what_the_network_held_on_the_way(record: Any) -> None:
    model, images = _model(record), _images()
    with torch.no_grad():
        logits = model(images)
        features = model.features(images)
        quarter = model.segment(features, 64).quarter
        embeddings = model.branch.embed(quarter)  # type: ignore[union-attr]
    seen = look_at(model, images, 2.0)
    assert torch.equal(seen.probabilities, (logits / 2.0).softmax(dim=1))
    assert torch.equal(seen.tokens, features[-1])
    assert seen.quarter is not None
    assert torch.equal(seen.quarter, quarter)
    cells = look_at_cells(model.branch, seen.quarter, TEMPERATURE)  # type: ignore[arg-type]
    assert torch.equal(cells.embeddings, embeddings)
    assert cells.embeddings.shape == (2, 16, 16, 16)
    whole = look_at_cells(model.branch, torch.cat([*quarter], dim=2)[None], TEMPERATURE)  # type: ignore[arg-type]
    assert torch.allclose(whole.embeddings[0, :, :, 16:], embeddings[1], atol=1e-5)


def test_posteriors_equal_a_softmax_over_each_class_s_best_row_in_numpy() -> None:
    branch = _model().branch
    assert branch is not None
    assert branch.bank is not None
    branch.bank.active[1, 1] = False
    embeddings = _unit(2, 4, 5, 16, seed=9).permute(0, 3, 1, 2)
    by_image, by_text = posteriors(branch, embeddings, TEMPERATURE)
    assert by_image is not None
    assert by_text is not None
    cosine = np.einsum("ndhw,ckd->nckhw", embeddings.numpy(), branch.bank.rows.numpy())
    cosine[:, 1, 1] = -np.inf
    assert by_image.detach().numpy() == pytest.approx(_softmax(cosine.max(axis=2) / TEMPERATURE), abs=1e-5)
    words = np.einsum("ndhw,cd->nchw", embeddings.numpy(), branch.text_prototypes().detach().numpy())
    expected = _softmax(words / float(branch.text_temperature.detach()))
    assert by_text.detach().numpy() == pytest.approx(expected, abs=1e-4)


def test_prototypes_that_lack_a_class_are_silent_unless_its_text_speaks_for_it() -> None:
    embeddings = _unit(1, 3, 3, 16, seed=9).permute(0, 3, 1, 2)
    alone = _model(text_width=0).branch
    assert alone is not None
    assert alone.bank is not None
    by_image, by_text = posteriors(alone, embeddings, TEMPERATURE)
    assert by_image is not None
    assert by_text is None
    alone.bank.active[2] = False
    assert posteriors(alone, embeddings, TEMPERATURE) == (None, None)
    both = _model().branch
    assert both is not None
    assert both.bank is not None
    both.bank.active[2] = False
    by_image, by_text = posteriors(both, embeddings, TEMPERATURE)
    assert by_image is not None
    assert by_text is not None
    cosine = torch.einsum("ndhw,ckd->nckhw", embeddings, both.bank.rows).max(dim=2).values
    cosine[:, 2] = torch.einsum("ndhw,d->nhw", embeddings, both.text_prototypes()[2].detach())
    assert torch.allclose(by_image, (cosine / TEMPERATURE).softmax(dim=1), atol=1e-5)
    both.bank.active.fill_(False)
    assert posteriors(both, embeddings, TEMPERATURE)[0] is None  # then only texts would speak, and twice
    both.text_vectors[0] = 0
    assert posteriors(both, embeddings, TEMPERATURE) == (None, None)


def test_a_model_without_prototypes_has_its_tokens() -> None:
    seen = look_at(_model(branch=False), _images(), 1.0)
    assert seen.quarter is None
    assert seen.tokens.shape[0] == 2


@pytest.mark.parametrize("record", [None, small_vit()], ids=["pyramid", "transformer"])
def test_dropping_no_channel_says_what_the_model_says(record: Any) -> None:
    model, images = _model(record), _images()
    drawn = look_with_dropout(model, images, 2.0, channel_keeps(model.record, 3, 0.0, seed=0))
    whole = look_at(model, images, 2.0).probabilities[:, :, ::2, ::2]
    assert drawn.shape == (2, 3, CLASSES, 32, 32)
    assert all(torch.equal(drawn[:, t], whole) for t in range(3))


@pytest.mark.parametrize("record", [None, small_vit()], ids=["pyramid", "transformer"])
def test_dropped_channels_reach_the_answer_as_if_they_had_been_multiplied_by_hand(record: Any) -> None:
    """The reference scales what the next layer reads: the weights behind the dropped block's last ReLU."""
    model, images = _model(record), _images(1)
    (keep,) = channel_keeps(model.record, 1, 0.5, seed=3)
    drawn = look_with_dropout(model, images, 1.0, [keep])[:, 0]
    by_hand = _model(record)
    for index, factor in enumerate(keep):
        norm = by_hand.decoder.blocks[index].body[4]  # ReLU(a x) = a ReLU(x) for a >= 0
        with torch.no_grad():
            norm.weight.mul_(factor)
            norm.bias.mul_(factor)
    with torch.no_grad():
        expected = by_hand(images).softmax(dim=1)[:, :, ::2, ::2]
    assert torch.allclose(drawn, expected, atol=1e-4)
    assert not torch.allclose(drawn, model(images).softmax(dim=1)[:, :, ::2, ::2], atol=1e-3)


def test_the_model_is_as_it_was_after_looking_with_dropout_and_after_failing() -> None:
    model, images = _model(), _images()
    before = look_at(model, images, 1.0).probabilities
    look_with_dropout(model, images, 1.0, channel_keeps(model.record, 2, 0.5, seed=0))
    assert torch.equal(look_at(model, images, 1.0).probabilities, before)
    with pytest.raises(RuntimeError):
        look_with_dropout(model, images, 1.0, [[torch.ones(7), torch.ones(7)]])
    assert torch.equal(look_at(model, images, 1.0).probabilities, before)


def test_keeps_are_drawn_from_the_seed_alone_and_keep_the_mean() -> None:
    record = encoder_record("light")
    first, second, other = (channel_keeps(record, 200, 0.1, seed) for seed in (5, 5, 6))
    assert [len(k) for k in first[0]] == list(record.decoder_widths[:DROPPED_BLOCKS])
    values, again, others = (torch.cat([k for keep in one for k in keep]) for one in (first, second, other))
    assert torch.equal(values, again)
    assert not torch.equal(values, others)
    assert values.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    assert float(values.mean()) == pytest.approx(1, abs=0.02)
    assert float((values == 0).float().mean()) == pytest.approx(0.1, abs=0.01)
