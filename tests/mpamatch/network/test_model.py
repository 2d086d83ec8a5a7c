import pytest
import torch

from mpamatch.domain.recipe import Recipe
from mpamatch.network.branch import BranchShape
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import add_branch, build_segmenter, channel_gains_pair, parameter_count

pytestmark = pytest.mark.torch


@pytest.mark.method_line(28)
@pytest.mark.parametrize(("name", "most"), [("light", 5_000_000), ("tiny", 3_000_000)])
def test_segmenters_keep_within_their_size(name: str, most: int) -> None:
    model = build_segmenter(encoder_record(name), 5, seed=0, pretrained=False)
    bare = parameter_count(model)
    recipe = Recipe.for_profile("demo", "mpamatch", encoder=name)
    shape = BranchShape(recipe.embedding_channels, recipe.prototypes_per_class, 384, attention=True)
    add_branch(model, shape, seed=0)
    assert bare < parameter_count(model) <= most


@pytest.mark.method_line(28)
@pytest.mark.parametrize("name", ["light", "tiny"])
@pytest.mark.parametrize("side_px", [128, 256, 320])
def test_logits_have_the_images_size(name: str, side_px: int) -> None:
    model = build_segmenter(encoder_record(name), 3, seed=0, pretrained=False).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, side_px, side_px)).shape == (1, 3, side_px, side_px)


def test_weights_depend_on_the_seed_alone() -> None:
    record = encoder_record("tiny")
    before = torch.random.get_rng_state()
    first = build_segmenter(record, 2, seed=1).state_dict()
    torch.rand(3)
    again, other = build_segmenter(record, 2, seed=1).state_dict(), build_segmenter(record, 2, seed=2).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    torch.random.set_rng_state(before)
    build_segmenter(record, 2, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.method_line(29)
def test_an_image_is_segmented_the_same_whatever_its_batch_mates() -> None:
    model = build_segmenter(encoder_record("tiny"), 2, seed=0).eval()
    x = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(x)[1], model(x[1:2])[0], atol=1e-5)


def test_complementary_channel_gains_sum_to_two() -> None:
    record = encoder_record("tiny")
    for batch in (1, 4):
        first, second = channel_gains_pair(record, batch, torch.Generator().manual_seed(0))
        for a, b, channels in zip(first, second, record.channels, strict=True):
            assert a.shape == (batch, channels)
            assert torch.equal(a + b, torch.full_like(a, 2.0))


def test_half_of_the_pairs_are_left_whole_and_none_at_batch_one() -> None:
    record = encoder_record("tiny")
    first, _ = channel_gains_pair(record, 4, torch.Generator().manual_seed(0))
    assert sum(bool((row == 1).all()) for row in first[0]) == 2
    first, _ = channel_gains_pair(record, 1, torch.Generator().manual_seed(0))
    assert not bool((first[0] == 1).any())
