import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from mpamatch.network.encoders import EncoderRecord, encoder_record, with_options
from mpamatch.network.model import Segmenter, build_segmenter, parameter_count
from mpamatch.network.token_decoder import ConvStem, TokenDecoder
from tests.mpamatch.network.small_vit import small_vit

pytestmark = pytest.mark.torch


def _model(record: EncoderRecord, classes: int = 3) -> Segmenter:
    return build_segmenter(record, classes, seed=0, pretrained=False).eval()


def _images(side_px: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))


def test_the_decoder_of_transuni_has_the_papers_size() -> None:
    """Convolutions of the widths in the paper, counted by hand, and two numbers per channel of each norm."""
    widths = [512, 256, 128, 64, 16]
    kernels = 9 * 1024 * 512 + sum(9 * (a * b + b * b) for a, b in itertools.pairwise(widths))
    norms = 2 * 512 + sum(2 * 2 * b for b in widths[1:])
    with torch.device("meta"):
        decoder = TokenDecoder(encoder_record("uni"))
    assert parameter_count(decoder) == kernels + norms
    assert abs(parameter_count(decoder) / 1e6 - 7.05) < 0.01
    assert decoder.quarter_channels == 128


def test_the_stem_is_small() -> None:
    assert parameter_count(ConvStem("group")) < 0.3e6


@pytest.mark.parametrize("patch", [8, 14, 16])
@pytest.mark.parametrize("skips", ["none", "vit", "stem"])
def test_whatever_the_patch_the_quarter_is_one_and_logits_have_the_images_size(patch: int, skips: str) -> None:
    base = small_vit()
    record = small_vit(patch=patch, strides=(patch,), kwargs={**base.kwargs, "patch_size": patch})
    model = _model(with_options(record, skips=skips))  # type: ignore[arg-type]
    with torch.no_grad():
        features = model.features(_images(96))
        assert tuple(f.shape[1] for f in features) == model.record.channels
        done = model.segment(features, 96)
    assert done.logits.shape == (2, 3, 96, 96)
    assert done.quarter.shape == (2, 128, 24, 24)


def test_transunets_skips_come_from_its_resnet() -> None:
    record = encoder_record("in-r50-vitb")
    model = _model(replace(record, kwargs={**record.kwargs, "depth": 1}, depth=1))
    joined = [block.body[0].in_channels for block in model.decoder.blocks]  # type: ignore[union-attr,index]
    assert joined == [512 + 512, 256 + 256, 128 + 64, 64]
    with torch.no_grad():
        *skips, tokens = model.features(_images(64, 1))
        before = model.segment([*skips, tokens], 64).logits
        for level in range(3):
            changed = [s + (n == level) for n, s in enumerate(skips)]
            assert not torch.equal(model.segment([*changed, tokens], 64).logits, before)


@pytest.mark.parametrize("skips", ["none", "vit", "stem"])
def test_what_is_refined_reaches_the_logits_and_channels_can_be_dropped(skips: str) -> None:
    model = _model(with_options(small_vit(), skips=skips))  # type: ignore[arg-type]
    with torch.no_grad():
        features = model.features(_images(64))
        plain, halved = model.segment(features, 64), model.segment(features, 64, lambda f: f * 0.5)
        assert torch.equal(halved.quarter, plain.quarter * 0.5)
        assert not torch.equal(halved.logits, plain.logits)
        ones = [torch.ones(2, c) for c in model.record.channels]
        assert torch.equal(model(_images(64), ones), plain.logits)
        assert all(float(f.abs().max()) == 0 for f in model.features(_images(64), [0 * one for one in ones]))


@pytest.mark.method_line(29)
def test_an_image_is_segmented_the_same_whatever_its_batch_mates() -> None:
    model = _model(with_options(small_vit(), skips="stem")).train()
    with torch.no_grad():
        assert torch.allclose(model(_images(64, 3))[1], model(_images(64, 3)[1:2])[0], atol=1e-5)


@pytest.mark.parametrize("name", ["small-vit", "light"])
def test_batch_norms_are_the_decoders_only_when_asked(name: str) -> None:
    record = small_vit() if name == "small-vit" else encoder_record(name)
    for kind, other, asked in ((nn.GroupNorm, nn.BatchNorm2d, "group"), (nn.BatchNorm2d, nn.GroupNorm, "batch")):
        decoder = _model(with_options(record, decoder_norm=asked)).decoder  # type: ignore[arg-type]
        assert any(isinstance(m, kind) for m in decoder.modules())
        assert not any(isinstance(m, other) for m in decoder.modules())
