from dataclasses import replace

import numpy as np
import pytest
import torch

from mpamatch.domain.signals import bald
from mpamatch.errors import BadInput, Unavailable
from mpamatch.inference import Predictor
from mpamatch.network.branch import BranchShape
from mpamatch.network.encoders import encoder_record
from mpamatch.network.looking import channel_keeps, look_at, look_at_cells, look_with_dropout
from mpamatch.network.model import Segmenter, add_branch, build_segmenter
from mpamatch.network.pixels import normalise
from mpamatch.network.weights import LoadedModel, ModelConfig, WorkingScale
from tests.mpamatch.tissue import CLASSES, quick_recipe

pytestmark = pytest.mark.torch


def _loaded(reduction: float = 1.0, module: torch.nn.Module | None = None) -> LoadedModel:
    record = encoder_record("tiny")
    config = ModelConfig("test-m1", CLASSES, record, WorkingScale(reduction), quick_recipe())
    return LoadedModel(module or build_segmenter(record, 2, seed=0).eval(), config)  # type: ignore[arg-type]


def _image(height_px: int, width_px: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height_px, width_px, 3)).astype(np.uint8)


class _Flat(torch.nn.Module):
    """Logits that do not depend on place; remembers the batches it was given."""

    def __init__(self, most: int = 100, error: str = "CUDA out of memory") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.most, self.error = most, error
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        if len(x) > self.most:
            raise RuntimeError(self.error)
        return torch.stack([torch.zeros(x.shape[0], *x.shape[2:]), torch.ones(x.shape[0], *x.shape[2:])], dim=1)


@pytest.mark.parametrize(("height_px", "width_px"), [(1, 1), (33, 70), (64, 64), (130, 40), (100, 201)])
@pytest.mark.parametrize("reduction", [1.0, 2.0, 3.7])
def test_any_size_comes_back_at_its_own_size_and_sums_to_one(height_px: int, width_px: int, reduction: float) -> None:
    shares = Predictor(_loaded(reduction)).predict(_image(height_px, width_px))
    assert shares.shape == (2, height_px, width_px)
    assert shares.dtype == np.float32
    assert np.abs(shares.sum(axis=0) - 1).max() < 1e-4


def test_a_constant_answer_stays_constant_under_blending() -> None:
    shares = Predictor(_loaded(module=_Flat())).predict(_image(150, 170))
    assert np.ptp(shares[0]) < 1e-5


def test_blending_leaves_no_seam_where_patches_meet() -> None:
    """Steps between neighbouring pixels on patch borders are no larger than elsewhere."""
    shares = Predictor(_loaded()).predict(_image(64, 256))[0]
    steps = np.abs(np.diff(shares, axis=1)).mean(axis=0)
    assert steps[[31, 63, 95, 127]].max() <= 2 * np.median(steps) + 1e-6


def test_the_batch_changes_nothing() -> None:
    image = _image(130, 130)
    one, eight = (Predictor(_loaded(), batch=b).predict(image) for b in (1, 8))
    assert np.abs(one - eight).max() < 1e-5


def test_the_same_image_gives_the_same_bits() -> None:
    image = _image(100, 100)
    predictor = Predictor(_loaded())
    assert np.array_equal(predictor.predict(image), predictor.predict(image))


def test_memory_running_out_halves_the_batch_and_loses_no_patch() -> None:
    net = _Flat(most=2)
    shares = Predictor(_loaded(module=net), batch=8).predict(_image(200, 200))
    assert net.batches[:4] == [8, 4, 2, 2]
    assert np.ptp(shares) > 0.1
    assert np.ptp(shares[0]) < 1e-5


def test_a_patch_that_never_fits_is_unavailable_and_other_errors_pass() -> None:
    with pytest.raises(Unavailable):
        Predictor(_loaded(module=_Flat(most=0)), batch=4).predict(_image(70, 70))
    with pytest.raises(RuntimeError, match="shape"):
        Predictor(_loaded(module=_Flat(most=0, error="wrong shape"))).predict(_image(70, 70))


def test_temperature_softens_without_changing_the_answer() -> None:
    loaded = _loaded()
    warm = LoadedModel(loaded.module, replace(loaded.config, temperature=3.0))
    image = _image(64, 64)
    plain, soft = Predictor(loaded).predict(image), Predictor(warm).predict(image)
    assert np.array_equal(plain.argmax(0), soft.argmax(0))
    assert soft.max(axis=0).mean() < plain.max(axis=0).mean()


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 4), (0, 10, 3)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInput):
        Predictor(_loaded()).predict(np.zeros(shape, np.uint8))


def test_a_model_in_training_mode_is_put_to_eval() -> None:
    module: Segmenter = build_segmenter(encoder_record("tiny"), 2, seed=0).train()
    Predictor(_loaded(module=module))
    assert not module.training


def _with_prototypes(reduction: float = 1.0, **config: float) -> LoadedModel:
    """A model with image prototypes and texts; rows of random directions."""
    module = build_segmenter(encoder_record("tiny"), 2, seed=0)
    add_branch(module, BranchShape(12, 2, 6), seed=1)
    generator = torch.Generator().manual_seed(2)
    assert module.branch is not None
    assert module.branch.bank is not None
    rows = torch.randn(2, 2, 12, generator=generator)
    module.branch.bank.rows.copy_(torch.nn.functional.normalize(rows, dim=-1))
    module.branch.bank.active.fill_(True)
    module.branch.text_vectors.copy_(torch.randn(2, 6, generator=generator))
    loaded = _loaded(reduction, module.eval())
    return LoadedModel(loaded.module, replace(loaded.config, **config))


def _one_patch(image: np.ndarray, loaded: LoadedModel) -> torch.Tensor:
    record = encoder_record("tiny")
    return normalise(image[None], record.mean, record.std).to(memory_format=torch.channels_last)


@pytest.mark.parametrize(("height_px", "width_px"), [(1, 1), (33, 70), (64, 64), (130, 41), (101, 202)])
@pytest.mark.parametrize("reduction", [1.0, 3.7])
def test_a_look_says_bit_for_bit_what_predict_says_and_covers_the_image(
    height_px: int, width_px: int, reduction: float
) -> None:
    image = _image(height_px, width_px)
    predictor = Predictor(_with_prototypes(reduction))
    look = predictor.look(image)
    assert np.array_equal(look.probabilities, predictor.predict(image))
    assert look.embeddings is not None
    assert look.image_posterior is not None
    assert look.text_posterior is not None
    assert look.shares is not None
    cells = tuple(max(1, int(max(1, round(side / reduction)) / 4 + 0.5)) for side in (height_px, width_px))
    assert look.shares.shape[1:] == cells
    assert np.linalg.norm(look.embeddings, axis=0) == pytest.approx(1, abs=1e-4)
    for shares in (look.shares, look.image_posterior, look.text_posterior):
        assert shares.shape == (2, *look.embeddings.shape[1:])
        assert shares.sum(axis=0) == pytest.approx(1, abs=1e-4)
    apart = look.disagreement
    assert apart is not None
    assert 0 <= apart.min() <= apart.max() <= 1
    assert look.tokens.shape[0] == 960
    assert [len(v) for v in look.vectors] == [12, 960]


def test_of_one_patch_a_look_is_what_the_network_says() -> None:
    loaded, image = _with_prototypes(temperature=2.0), _image(64, 64)
    look = Predictor(loaded).look(image)
    seen = look_at(loaded.module, _one_patch(image, loaded), 2.0)
    assert loaded.module.branch is not None
    assert seen.quarter is not None
    cells = look_at_cells(loaded.module.branch, seen.quarter, loaded.config.recipe.prototype_temperature)
    for name in ("embeddings", "image_posterior", "text_posterior"):
        assert getattr(look, name) == pytest.approx(getattr(cells, name)[0].numpy(), abs=1e-4)
    assert look.tokens == pytest.approx(seen.tokens[0].numpy(), abs=1e-5)
    assert look.shares == pytest.approx(look.probabilities.reshape(2, 16, 4, 16, 4).mean(axis=(2, 4)), abs=1e-5)


def test_a_model_without_prototypes_looks_too_and_disagrees_with_nothing() -> None:
    look = Predictor(_loaded()).look(_image(100, 70))
    assert (look.embeddings, look.shares, look.disagreement) == (None, None, None)
    assert (look.image_posterior, look.text_posterior) == (None, None)
    assert len(look.vectors) == 1


def test_the_batch_and_the_order_of_calls_change_no_look() -> None:
    image = _image(130, 130)
    one, eight = (Predictor(_with_prototypes(), batch=b) for b in (1, 8))
    first, second = one.look(image), eight.look(image)
    assert second.embeddings is not None
    assert first.embeddings == pytest.approx(second.embeddings, abs=1e-4)
    again = eight.look(image)
    assert np.array_equal(again.tokens, second.tokens)
    assert again.embeddings is not None
    assert np.array_equal(again.embeddings, second.embeddings)


def test_prototypes_that_are_no_numbers_are_refused() -> None:
    loaded = _with_prototypes()
    assert loaded.module.branch is not None
    assert loaded.module.branch.bank is not None
    loaded.module.branch.bank.rows[0] = float("nan")
    Predictor(loaded).predict(_image(64, 64))
    with pytest.raises(BadInput, match="no numbers"):
        Predictor(loaded).look(_image(64, 64))


@pytest.mark.method_line(39)
def test_a_second_look_without_dropout_has_nothing_to_learn() -> None:
    gain = Predictor(_with_prototypes()).second_look(_image(130, 70), dropout=0.0)
    assert (gain == 0).all()


def test_a_second_look_of_one_patch_is_bald_over_its_passes() -> None:
    loaded, image = _with_prototypes(temperature=2.0), _image(64, 64)
    gain = Predictor(loaded).second_look(image, passes=4, dropout=0.3, seed=7)
    keeps = channel_keeps(loaded.config.encoder, 4, 0.3, seed=7)
    drawn = look_with_dropout(loaded.module, _one_patch(image, loaded), 2.0, keeps)[0].numpy()
    expected = bald(drawn).reshape(16, 2, 16, 2).mean(axis=(1, 3))
    assert gain.shape == (16, 16)
    assert gain == pytest.approx(expected, abs=1e-6)
    assert 0 < gain.max() <= 1


def test_a_second_look_depends_on_its_seed_and_on_nothing_else() -> None:
    image = _image(130, 75)
    loaded = _with_prototypes()
    predictor = Predictor(loaded)
    before = predictor.predict(image)
    first = predictor.second_look(image, seed=1)
    torch.manual_seed(99)
    assert np.array_equal(first, predictor.second_look(image, seed=1))
    assert first == pytest.approx(Predictor(loaded, batch=1).second_look(image, seed=1), abs=1e-5)
    assert not np.array_equal(first, predictor.second_look(image, seed=2))
    assert np.array_equal(before, predictor.predict(image))
    assert not loaded.module.training


@pytest.mark.parametrize("knobs", [{"dropout": 1.0}, {"dropout": -0.1}, {"passes": 0}])
def test_a_second_look_that_cannot_be_is_refused(knobs: dict) -> None:
    with pytest.raises(BadInput, match="second look"):
        Predictor(_loaded()).second_look(_image(64, 64), **knobs)
