"""Strategies that take the rows with the most of one figure, as published: no caps, no noise, no exploration.

Sources: predictive entropy and margin (Settles 2009); BALD (Houlsby et al. 2011); RIPU, region impurity x prediction
uncertainty (Xie et al. 2022); Jensen-Shannon disagreement of head and prototypes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.candidates import Batch, Candidates, Picks
from mpamatch.domain.factors import Factors, Scales, discount, normalised, scales_of
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.selection import Chooser, best_rows
from mpamatch.errors import BadInput

Floats = NDArray[np.float64]
Worth = Callable[[Factors, RankingPolicy, Scales], Floats]


def entropy_of(raw: Factors, policy: RankingPolicy, scales: Scales) -> Floats:
    """The mean entropy."""
    return raw.uncertainty


def margin_of(raw: Factors, policy: RankingPolicy, scales: Scales) -> Floats:
    """How close the best two classes are: 1 less the margin."""
    return 1.0 - raw.margin


def bald_of(raw: Factors, policy: RankingPolicy, scales: Scales) -> Floats:
    """BALD on the scale of entropy; the entropy where nobody took a second look."""
    return normalised(raw, policy, scales).uncertainty


def ripu_of(raw: Factors, policy: RankingPolicy, scales: Scales) -> Floats:
    """Impurity x mean entropy."""
    return raw.impurity * raw.uncertainty


def disagreement_of(raw: Factors, policy: RankingPolicy, scales: Scales) -> Floats:
    """How far head and prototypes are apart."""
    return raw.disagreement


def error_of(raw: Factors, policy: RankingPolicy, scales: Scales) -> Floats:
    """The share of wrong pixels, with the same regard for area and cost as the score. Raises BadInput where unknown."""
    if np.isnan(raw.true_error).any():
        raise BadInput("strategy 'oracle'", "needs the true errors", "use it in simulations, where masks are known")
    return raw.true_error * discount(normalised(raw, policy, scales), policy)


def entropy(found: Candidates, batch: Batch) -> Picks:
    """Rows of the highest mean entropy."""
    return _greedy(found, batch, entropy_of)


def margin(found: Candidates, batch: Batch) -> Picks:
    """Rows whose best two classes are closest."""
    return _greedy(found, batch, margin_of)


def bald(found: Candidates, batch: Batch) -> Picks:
    """Rows on which passes with dropout agree least."""
    return _greedy(found, batch, bald_of)


def ripu(found: Candidates, batch: Batch) -> Picks:
    """Rows where many classes mix and the model is unsure."""
    return _greedy(found, batch, ripu_of)


def disagreement(found: Candidates, batch: Batch) -> Picks:
    """Rows on which head and prototypes are farthest apart."""
    return _greedy(found, batch, disagreement_of)


def oracle(found: Candidates, batch: Batch) -> Picks:
    """Rows that are most wrong: what no queue can know. For simulations."""
    return _greedy(found, batch, error_of)


def _greedy(found: Candidates, batch: Batch, worth: Worth) -> Picks:
    chooser = Chooser(found, batch)
    scales = scales_of(found.factors) if batch.scales is None else batch.scales
    score = np.where(found.silent, 0.0, worth(found.factors, batch.policy, scales))
    key = np.where(found.silent, -np.inf, score)
    taken: list[int] = []
    while len(taken) < batch.size and chooser.open.any():
        for row in best_rows(np.flatnonzero(chooser.open), key, found.rest, batch.size - len(taken)):
            if chooser.open[row]:
                chooser.take(int(row))
                taken.append(int(row))
    return Picks.of(found, np.array(taken, np.int64), "score", score=score)
