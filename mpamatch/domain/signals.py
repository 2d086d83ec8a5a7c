"""What a model is unsure of, pixel by pixel, each signal in 0..1: entropy, margin, BALD, disagreement, impurity.

Arrays in, arrays out. Sources: BALD (Houlsby et al. 2011); Jensen-Shannon divergence (Lin 1991); region impurity of
RIPU (Xie et al. 2022), with borders divided by the pixels that there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

Floats = NDArray[np.floating]


def entropy(shares: Floats) -> NDArray[np.float64]:
    """Entropy of class shares (C, ...) over log C, (...): 0 where one class has all, 1 where all have the same."""
    return _nats(np.asarray(shares, np.float64)) / np.log(len(shares))


def margin(shares: Floats) -> NDArray[np.float64]:
    """How far the best class is ahead of the second, (...), from shares (C, ...)."""
    top = np.sort(np.asarray(shares, np.float64), axis=0)
    return top[-1] - top[-2]


def bald(samples: Floats) -> NDArray[np.float64]:
    """What T passes with dropout do not agree on: entropy of their mean less their mean entropy, over log C.

    ``samples`` (T, C, ...) -> (...). 0 where all passes say the same.
    """
    drawn = np.asarray(samples, np.float64)
    gain = _nats(drawn.mean(axis=0)) - np.mean([_nats(one) for one in drawn], axis=0)
    return np.clip(gain / np.log(drawn.shape[1]), 0.0, 1.0)


def disagreement(posteriors: Sequence[Floats]) -> NDArray[np.float64]:
    """Jensen-Shannon divergence of two or more posteriors (C, ...), over the most that so many can reach, (...)."""
    given = np.asarray(posteriors, np.float64)
    gain = _nats(given.mean(axis=0)) - np.mean([_nats(one) for one in given], axis=0)
    return np.clip(gain / most_disagreement(*given.shape[:2]), 0.0, 1.0)


def most_disagreement(sources: int, classes: int) -> float:
    """The highest divergence of that many posteriors: each quite sure, spread over the classes as evenly as may be.

    >>> round(most_disagreement(2, 2), 4), round(most_disagreement(3, 2), 4), round(most_disagreement(3, 5), 4)
    (0.6931, 0.6365, 1.0986)
    """
    counts = np.array([len(range(c, sources, classes)) for c in range(classes)])
    return float(_nats(counts / sources))


def impurity(class_map: NDArray[np.integer], class_count: int, side_px: int) -> NDArray[np.float64]:
    """Entropy of the classes in a square window around each pixel, over log C, (H, W).

    ``side_px`` is odd. Windows end at the border: what is beyond does not count.
    """
    inside = _window_sums(np.ones(class_map.shape), side_px)
    shares = np.stack([_window_sums(class_map == c, side_px) for c in range(class_count)]) / inside
    return np.clip(_nats(shares) / np.log(class_count), 0.0, 1.0)


def _window_sums(values: NDArray[np.generic], side_px: int) -> NDArray[np.float64]:
    sums: NDArray[np.float64] = uniform_filter(values.astype(np.float64), side_px, mode="constant") * side_px**2
    return np.rint(sums)


def _nats(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    kept = np.where(shares > 0, shares, 1.0)
    total: NDArray[np.float64] = -(shares * np.log(kept)).sum(axis=0)
    return np.maximum(total, 0.0)
