import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy as scipy_entropy

from mpamatch.domain.signals import bald, disagreement, entropy, impurity, margin


def _shares(*shape: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).dirichlet(np.ones(shape[0]), shape[1:])
    return np.moveaxis(drawn, -1, 0)


def test_entropy_and_margin_equal_scipy_s_and_a_sort() -> None:
    shares = _shares(4, 6, 7)
    assert np.allclose(entropy(shares), scipy_entropy(shares, axis=0) / np.log(4))
    top = np.sort(shares, axis=0)
    assert np.allclose(margin(shares), top[-1] - top[-2])
    assert entropy(np.array([1.0, 0.0])) == 0
    assert entropy(np.array([0.25] * 4)) == pytest.approx(1)


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


@pytest.mark.method_line(40)
def test_impurity_counts_the_classes_of_a_window_that_ends_at_the_border() -> None:
    uniform = np.zeros((9, 9), np.uint8)
    assert np.allclose(impurity(uniform, 2, 3), 0)
    half = np.zeros((10, 10), np.uint8)
    half[:, 5:] = 1
    found = impurity(half, 2, 5)
    rng = np.random.default_rng(0)
    some = rng.integers(0, 3, (12, 11)).astype(np.uint8)
    by_window = impurity(some, 3, 5)
    for y in range(12):
        for x in range(11):
            window = some[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            shares = np.bincount(window.ravel(), minlength=3) / window.size
            assert by_window[y, x] == pytest.approx(scipy_entropy(shares) / np.log(3), abs=1e-9)
    even = np.zeros((8, 8), np.uint8)
    even[::2] = 1
    assert impurity(even[:2], 2, 3)[0, 0] == pytest.approx(1)  # two rows of the window exist, one of each class
    assert found[0, 0] == 0
