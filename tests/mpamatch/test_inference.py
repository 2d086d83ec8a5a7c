from dataclasses import replace

import numpy as np
import pytest
import torch

from mpamatch.errors import BadInput, Unavailable
from mpamatch.inference import Predictor
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import Segmenter, build_segmenter
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
