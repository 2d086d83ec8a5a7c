"""What several answers to one pixel do not agree on, in 0..1: BALD of passes, disagreement of posteriors.

Arrays in, arrays out. What one answer alone says of an area (entropy, margin, impurity) is in ``region_facts`` and
``regions``. Sources: BALD (Houlsby et al. 2011); Jensen-Shannon divergence (Lin 1991).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


def bald(samples: Floats) -> NDArray[np.float64]:
    """What T passes with dropout do not agree on: entropy of their mean less their mean entropy, over log C.

    ``samples`` (T, C, ...) -> (...). Computed as the mean divergence of the passes from their mean, which is the same
    and, of single precision samples that all say one thing, exactly 0.
    """
    drawn = np.asarray(samples, np.float64)
    mean = np.maximum(drawn.mean(axis=0), np.finfo(np.float64).tiny)
    gain = np.zeros(mean.shape[1:])
    for one in drawn:
        gain += (one * (np.log(np.where(one > 0, one, mean)) - np.log(mean))).sum(axis=0)
    return np.clip(gain / len(drawn) / np.log(drawn.shape[1]), 0.0, 1.0)


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


def _nats(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    kept = np.where(shares > 0, shares, 1.0)
    total: NDArray[np.float64] = -(shares * np.log(kept)).sum(axis=0)
    return np.maximum(total, 0.0)
