"""Rows drawn by chance, with the chance of each recorded: the strategies `random` and `foreground-random`, and the
exploration share of `mpamatch`.

A simple random sample, or, aware of the foreground, one in two strata: half of the draws are over all rows and half
over those whose tile shows predicted foreground. Drawn as independent samples of the rows with and without, whose sizes
have just that expectation, every row's chance is exact: n_u / N for all, and n_f / F more for the F with foreground.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.candidates import Batch, Candidates, Picks
from mpamatch.domain.draws import hash_draw, uniform_draws
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.selection import Chooser, best_rows

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def random(found: Candidates, batch: Batch) -> Picks:
    """Every row with the same chance."""
    chooser = Chooser(found, batch)
    return explore(chooser, min(batch.size, int(chooser.open.sum())), foreground_aware=False)


def foreground_random(found: Candidates, batch: Batch) -> Picks:
    """Half of the draws over all rows, half over those whose tile shows predicted foreground."""
    chooser = Chooser(found, batch)
    return explore(chooser, min(batch.size, int(chooser.open.sum())), foreground_aware=True)


def draws_of(ids: Ints, policy: RankingPolicy, seed: int, round_number: int) -> Floats:
    """The draw of each row: those with the largest come first, in every head of a round."""
    return uniform_draws(seed, "exploration", round_number, ids)


def explore(chooser: Chooser, count: int, *, foreground_aware: bool) -> Picks:
    """Draw ``count`` rows of what is open and take them.

    Propensities are exact as long as rows do not overlap: a draw that shares pixels with an earlier one is passed over.
    """
    found, batch = chooser.found, chooser.batch
    draws = draws_of(found.ids, batch.policy, batch.seed, batch.round_number)
    foreground = _with_foreground(chooser) if foreground_aware else np.zeros(len(found), bool)
    strata = _strata(chooser, foreground, count)
    taken: list[int] = []
    propensity = np.zeros(len(found))
    for rows, size, chance in strata:
        propensity[rows] = chance
        taken += _draw(chooser, rows, draws, size)
    # In the order of the draws, so that the two kinds mix.
    rows = np.array(sorted(taken, key=lambda row: (-draws[row], row)), np.int64)
    return Picks.of(found, rows, "exploration", noise=draws, propensity=propensity[rows])


def _with_foreground(chooser: Chooser) -> Bools:
    return np.nan_to_num(chooser.found.foreground, nan=0.0) >= chooser.policy.least_foreground


def _strata(chooser: Chooser, foreground: Bools, count: int) -> list[tuple[Ints, int, float]]:
    """Rows, how many of them to draw, and the chance that this gives to each."""
    everything = np.flatnonzero(chooser.open)
    shown, others = np.flatnonzero(chooser.open & foreground), np.flatnonzero(chooser.open & ~foreground)
    if len(everything) == 0:
        return []
    # An odd draw is a foreground one in every second head.
    aware = (count + chooser.batch.place % 2) // 2
    uniform = count - aware
    share_shown = uniform * len(shown) / len(everything)
    if min(len(others), len(shown)) == 0 or aware + share_shown > len(shown):
        return [(everything, count, count / len(everything))]
    expected_others = uniform * len(others) / len(everything)
    drawn_others = math.floor(expected_others + _rounding(chooser.batch))
    return [
        (others, drawn_others, uniform / len(everything)),
        (shown, count - drawn_others, aware / len(shown) + uniform / len(everything)),
    ]


def _rounding(batch: Batch) -> float:
    """In [0, 1): whether a half row is drawn or not, so that the expectation is exact."""
    return hash_draw(batch.seed, "foreground share", f"{batch.round_number}:{batch.place}") / 2.0**64


def _draw(chooser: Chooser, rows: Ints, draws: Floats, count: int) -> list[int]:
    taken: list[int] = []
    no_rest = np.zeros(len(draws))
    while len(taken) < count:
        left = rows[chooser.open[rows]]
        if left.size == 0:
            break
        for row in best_rows(left, draws, no_rest, count - len(taken)):
            if chooser.open[row]:
                chooser.take(int(row))
                taken.append(int(row))
    return taken
