"""Candidates drawn at random, for tests of strategies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from mpamatch.domain.candidates import Batch, Candidates, Picks
from mpamatch.domain.factors import Factors
from mpamatch.domain.ranking_policy import RankingPolicy

POLICY = RankingPolicy()
LOOSE = replace(POLICY, image_cap=10_000, group_share=1.0, duplicate_cosine=1.0)


def candidates(
    count: int = 60,
    seed: int = 0,
    *,
    embedded: bool = True,
    classes: int = 3,
    order: np.ndarray | None = None,
    **columns: Any,
) -> Candidates:
    """``count`` rows in 10 images of 4 groups, with known errors; ``order``: in which the rows are given."""
    rng = np.random.default_rng(seed)
    at = np.arange(count) if order is None else order
    figures = {name: rng.random(count)[at] for name in ("margin", "impurity", "disagreement", "mean_confidence")}
    factors = Factors.of(
        area_px=rng.integers(100, 5000, count).astype(float)[at],
        uncertainty=rng.random(count)[at],
        policy=POLICY,
        predicted_class=rng.integers(0, classes + 1, count)[at],
        bald=np.where(rng.random(count) < 0.5, rng.random(count) / 5, np.nan)[at],
        distance=rng.random(count)[at] if embedded else np.full(count, np.nan),
        true_error=rng.random(count)[at],
        **figures,
    )
    values: dict[str, Any] = {
        "ids": np.arange(count) * 3 + 1,
        "images": np.arange(count) % 10,
        "groups": np.arange(count) % 4,
        "class_worth": rng.random((count, classes + 1)),
        "foreground": np.where(rng.random(count) < 0.6, rng.random(count), 0.0),
        "vectors": rng.normal(size=(count, 8)) if embedded else None,
        **columns,
    }
    given = {name: None if column is None else np.asarray(column)[at] for name, column in values.items()}
    return Candidates.of(factors=factors, **given)


def batch(size: int, policy: RankingPolicy = POLICY, **values: Any) -> Batch:
    return Batch(**{"size": size, "policy": policy, "seed": 1, "round_number": 0, **values})


def rows_of(found: Candidates, picks: Picks) -> list[int]:
    """The rows of what was picked."""
    return [int(row) for row in np.searchsorted(found.ids, picks.ids)]
