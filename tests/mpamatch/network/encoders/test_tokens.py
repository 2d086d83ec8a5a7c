import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mpamatch.network.encoders import build_encoder, encoder_record, with_options
from mpamatch.network.encoders.records import EncoderRecord
from mpamatch.network.encoders.tokens import TokenEncoder, fix_size
from tests.mpamatch.network.small_vit import small_vit

pytestmark = pytest.mark.torch


def _encoder(record: EncoderRecord) -> TokenEncoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        encoder = build_encoder(record, pretrained=False).eval()
        encoder.vit.pos_embed.data.normal_(generator=torch.Generator().manual_seed(4))
    assert isinstance(encoder, TokenEncoder)
    return encoder


def _images(side_px: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))


def _narrow(name: str) -> EncoderRecord:
    """A published layout of prefix tokens and position embeddings, 2 blocks and few channels."""
    record = encoder_record(name)
    kwargs = {**record.kwargs, "depth": 2, "embed_dim": 64, "num_heads": 4, "mlp_ratio": 4}
    return replace(record, kwargs=kwargs, dim=64, depth=2, channels=(64,))


@pytest.mark.method_line(25)
@pytest.mark.parametrize("name", ["uni", "uni2-h", "virchow2", "kaiko-l14", "kaiko-s8"])
def test_position_embeddings_resampled_once_or_at_every_pass_give_the_same(name: str) -> None:
    dynamic = _encoder(_narrow(name))
    fixed = copy.deepcopy(dynamic)
    fix_size(fixed, 256)
    with torch.no_grad():
        ours, theirs = dynamic(_images(256))[0], fixed(_images(256))[0]
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert ours.shape[-1] == round(256 / encoder_record(name).patch)


@pytest.mark.parametrize("prefix", [{}, {"reg_tokens": 4}, {"reg_tokens": 4, "no_embed_class": True}])
def test_the_map_holds_each_token_at_its_place_under_the_final_norm(prefix: dict[str, object]) -> None:
    record = small_vit()
    encoder = _encoder(replace(record, kwargs={**record.kwargs, **prefix}))
    with torch.no_grad():
        tokens, feature = encoder.vit.forward_features(_images(64)), encoder(_images(64))[0]
    first = 1 + int(prefix.get("reg_tokens", 0))  # type: ignore[call-overload]
    for row in range(4):
        for column in range(4):
            assert torch.equal(feature[:, :, row, column], tokens[:, first + 4 * row + column])
    assert torch.allclose(feature.mean(dim=1), torch.zeros(2, 4, 4), atol=1e-5)  # what a fresh layer norm leaves


def test_a_side_that_is_no_multiple_of_the_patch_is_resized_to_the_nearest_one() -> None:
    encoder = _encoder(_narrow("dinov2-s"))
    resized = torch.nn.functional.interpolate(_images(256), size=(252, 252), mode="bilinear", antialias=True)
    with torch.no_grad():
        assert torch.equal(encoder(_images(256))[0], encoder(resized)[0])
    assert encoder.fitted(_images(224)).shape[-1] == 224


def test_tapped_blocks_are_a_quarter_a_half_and_three_quarters_of_the_way_up() -> None:
    assert with_options(encoder_record("uni"), skips="vit").taps == (5, 11, 17)
    assert with_options(encoder_record("kaiko-s16"), skips="vit").taps == (2, 5, 8)
    encoder = _encoder(with_options(small_vit(), skips="vit"))
    seen: list[Tensor] = []
    for block in encoder.vit.blocks[:3]:
        block.register_forward_hook(lambda module, given, answer: seen.append(answer))
    with torch.no_grad():
        *earlier, last = encoder(_images(64))
        assert torch.equal(last, _encoder(small_vit())(_images(64))[0])
    for feature, tokens in zip(earlier, seen, strict=True):
        assert torch.equal(feature.flatten(2).transpose(1, 2), tokens[:, 1:])


def test_the_hybrids_tokens_are_timms_and_its_skips_those_of_its_resnet() -> None:
    record = encoder_record("in-r50-vitb")
    encoder = _encoder(replace(record, kwargs={**record.kwargs, "depth": 1}, depth=1))
    with torch.no_grad():
        *skips, last = encoder(_images(64, 1))
        tokens = encoder.vit.forward_features(_images(64, 1))
    assert torch.equal(last.flatten(2).transpose(1, 2), tokens[:, 1:])
    assert [tuple(s.shape[1:]) for s in skips] == [(64, 32, 32), (256, 16, 16), (512, 8, 8)]
