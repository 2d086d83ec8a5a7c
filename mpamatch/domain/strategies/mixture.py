"""The strategy `mpamatch`, the default: some by chance, most by class, the rest by score; spread out, capped, noisy.

1. ``exploration_share`` of the batch is drawn by chance, half of it aware of the foreground.
2. ``class_share`` of the rest goes in equal parts to the foreground classes that any region is predicted as, by
   mean(entropy x p) of that class, the class of the fewest rows first.
3. What is left goes by the score.
4. In 2 and 3, power noise is added to the logarithm, and of the best few times as many rows those are taken that lie
   farthest from each other and from all that is labelled, without near copies and within caps.

Source of the shares and the noise: ClaSP PE (nnActive, Luth et al. 2026).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.candidates import Batch, Candidates, Picks
from mpamatch.domain.factors import Factors, Scales, normalised, scales_of, score
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.selection import (
    Chooser,
    at_share_places,
    best_rows,
    gumbel_noise,
    noisy_key,
    quotas,
    shares_of_batch,
)
from mpamatch.domain.strategies.by_chance import explore

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def score_of(raw: Factors, policy: RankingPolicy, scales: Scales) -> Floats:
    """The weighted sum of factors over the cost."""
    return score(normalised(raw, policy, scales), policy)


def mpamatch(found: Candidates, batch: Batch) -> Picks:
    """A batch in the order in which to ask for it: by score and noise, with the draws at even places between."""
    policy = batch.policy
    chooser = Chooser(found, batch)
    size = min(batch.size, int(chooser.open.sum()))
    by_chance, by_class, _ = shares_of_batch(size, exploration=policy.exploration_share, by_class=policy.class_share)
    drawn = explore(chooser, by_chance, foreground_aware=True)
    scores = score_of(found.factors, policy, scales_of(found.factors) if batch.scales is None else batch.scales)
    noise = gumbel_noise(found.ids, policy, batch.seed, batch.round_number)
    key = np.where(found.silent, -np.inf, noisy_key(scores, noise))
    for_class = _by_class(chooser, scores, noise, by_class)
    taken = [row for rows in for_class.values() for row in rows]
    for capped in (True, False):
        taken += chooser.spread(key, size - len(drawn) - len(taken), capped=capped)
    taken += chooser.fill(key, size - len(drawn) - len(taken))
    rows = best_rows(np.array(sorted(taken), np.int64), key, found.rest, len(taken))
    chosen = _with_classes(Picks.of(found, rows, "score", score=scores, noise=noise), found, for_class)
    drawn = dataclasses.replace(drawn, score=scores[np.searchsorted(found.ids, drawn.ids)])
    return at_share_places(chosen, drawn)


def foreground_classes(chooser: Chooser) -> list[int]:
    """The classes but the background that are predicted of any row that is left, the one of the fewest rows first."""
    found = chooser.found
    counts = found.predicted[chooser.open & ~found.silent].sum(axis=0).tolist()
    return [c for count, c in sorted((count, c) for c, count in enumerate(counts)) if c > 0 and count > 0]


def class_key(found: Candidates, scores: Floats, noise: Floats, class_id: int) -> Floats:
    """What rows are sorted by for one class; -inf for those that have nothing of it.

    Without class scores, the score of the rows that are predicted as the class.
    """
    if found.class_worth is None or class_id >= found.class_worth.shape[1]:
        worth = np.where(found.predicted[:, class_id], scores, 0.0)
    else:
        worth = np.nan_to_num(found.class_worth[:, class_id], nan=0.0)
    return np.where((worth > 0) & ~found.silent, noisy_key(worth, noise), -np.inf)


def _by_class(chooser: Chooser, scores: Floats, noise: Floats, count: int) -> dict[int, list[int]]:
    classes = foreground_classes(chooser)
    if not classes:
        return {}
    return {
        c: chooser.spread(class_key(chooser.found, scores, noise, c), quota)
        for c, quota in quotas(count, classes).items()
    }


def _with_classes(picks: Picks, found: Candidates, for_class: dict[int, list[int]]) -> Picks:
    """The same, with what was chosen for a class said so."""
    classes = {int(found.ids[row]): c for c, rows in for_class.items() for row in rows}
    of = np.array([classes.get(int(one), -1) for one in picks.ids], np.int64)
    return dataclasses.replace(picks, classes=of, strata=tuple("score" if c < 0 else "class" for c in of))
