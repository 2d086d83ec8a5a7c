"""The strategy `coreset`: greedy k-center on embeddings, seeded with what is labelled (Sener and Savarese 2018)."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.candidates import Batch, Candidates, Picks
from mpamatch.domain.draws import uniform_draws
from mpamatch.domain.factors import Factors, Scales
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.selection import Chooser

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def distance_of(raw: Factors, policy: RankingPolicy, scales: Scales) -> Floats:
    """The distance to what is labelled; 0 where it is not known."""
    return np.nan_to_num(raw.distance, nan=0.0)


def coreset(found: Candidates, batch: Batch) -> Picks:
    """Each time the row that is farthest from all labelled and chosen ones, whatever the model says of it.

    Rows with embeddings come first. Where nothing has one, rows of other groups and images count as far.
    """
    loose = dataclasses.replace(
        batch.policy, window=len(found) + 1, duplicate_cosine=1.0, duplicate_bits=0, image_cap=len(found) + 1,
        group_share=1.0,
    )  # fmt: skip
    chooser = Chooser(found, dataclasses.replace(batch, policy=loose, seen_looks=None))
    tie = draws_of(found.ids, batch.policy, batch.seed, batch.round_number)
    known = np.where(found.vector_rows >= 0, tie, -np.inf) if (found.vector_rows >= 0).any() else tie
    rows = chooser.spread(known, min(batch.size, len(found)))
    rows += chooser.fill(tie, min(batch.size - len(rows), int(chooser.open.sum())))
    return Picks.of(
        found, np.array(rows, np.int64), "score", score=distance_of(found.factors, batch.policy, Scales()), noise=tie
    )


def draws_of(ids: Ints, policy: RankingPolicy, seed: int, round_number: int) -> Floats:
    """Chance decides between rows that are equally far, and where the first center is."""
    return uniform_draws(seed, "coreset", round_number, ids)
