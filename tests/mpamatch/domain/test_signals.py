import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy

from mpamatch.domain.signals import bald, disagreement


def _shares(*shape: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).dirichlet(np.ones(shape[0]), shape[1:])
    return np.moveaxis(drawn, -1, 0)


@pytest.mark.method_line(38)
def test_disagreement_of_two_is_scipy_s_and_of_any_number_is_never_below_zero() -> None:
    first, second = _shares(3, 5, 5), _shares(3, 5, 5, seed=1)
    expected = jensenshannon(first, second, axis=0) ** 2 / np.log(2)
    assert np.allclose(disagreement([first, second]), expected)
    assert (disagreement([first, second, _shares(3, 5, 5, seed=2)]) >= 0).all()


@pytest.mark.method_line(38)
@pytest.mark.parametrize("sources", [2, 3])
def test_the_same_say_nothing_and_opposite_ones_all(sources: int) -> None:
    same = np.array([0.7, 0.3])
    assert disagreement([same] * sources) == pytest.approx(0)
    opposite = [np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([1.0, 0.0])][:sources]
    assert disagreement(opposite) == pytest.approx(1)
    three = [np.eye(3)[i] for i in range(3)]
    assert disagreement(three) == pytest.approx(1)


@pytest.mark.method_line(39)
def test_passes_without_dropout_leave_nothing_to_learn() -> None:
    shares = _shares(3, 4, 4)
    assert np.allclose(bald(np.stack([shares] * 8)), 0)
    opposite = np.stack([np.broadcast_to(np.eye(2)[i % 2][:, None], (2, 4)) for i in range(8)])
    assert np.allclose(bald(opposite), 1)
    drawn = np.stack([_shares(3, 4, 4, seed=s) for s in range(8)])
    mean = drawn.mean(axis=0)
    expected = (scipy_entropy(mean, axis=0) - scipy_entropy(drawn, axis=1).mean(axis=0)) / np.log(3)
    assert np.allclose(bald(drawn), expected)
