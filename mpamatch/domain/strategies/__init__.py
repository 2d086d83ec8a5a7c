"""How a batch is chosen, by name: one function each over candidates as columns (`candidates`).

    >>> STRATEGIES["mpamatch"].pick.__name__
    'mpamatch'

The same functions order the queue and are compared by simulations. ``pick`` chooses a batch; ``worth`` is what a
strategy sees in a region alone, by which a tile's best region is found and an entry's score is recomputed; ``key`` of
worth and ``noise`` is the order of rows that no batch has chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.candidates import Batch, Candidates, Picks
from mpamatch.domain.factors import Factors, Scales
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.selection import gumbel_noise, noisy_key
from mpamatch.domain.strategies import by_chance, coreset, greedy, mixture
from mpamatch.errors import BadInput

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Pick = Callable[[Candidates, Batch], Picks]
Worth = Callable[[Factors, RankingPolicy, Scales], Floats]
Noise = Callable[[Ints, RankingPolicy, int, int], Floats]
Key = Callable[[Floats, Floats], Floats]


def _no_worth(raw: Factors, policy: RankingPolicy, scales: Scales) -> Floats:
    return np.zeros(len(raw))


def _no_noise(ids: Ints, policy: RankingPolicy, seed: int, round_number: int) -> Floats:
    return np.zeros(len(ids))


def _sum(worth: Floats, noise: Floats) -> Floats:
    return worth + noise


def _chance(worth: Floats, noise: Floats) -> Floats:
    return noise


@dataclass(frozen=True)
class Strategy:
    """One way to choose. ``explores``: a share of what follows the heads is drawn by chance too; ``driven_by_model`` is
    False for those that draw everything; ``weighs_costs``: what a label takes has a say."""

    pick: Pick
    worth: Worth
    noise: Noise = _no_noise
    key: Key = _sum
    explores: bool = False
    driven_by_model: bool = True
    weighs_costs: bool = False


STRATEGIES: Final[Mapping[str, Strategy]] = {
    "mpamatch": Strategy(mixture.mpamatch, mixture.score_of, gumbel_noise, noisy_key, explores=True, weighs_costs=True),
    "random": Strategy(by_chance.random, _no_worth, by_chance.draws_of, _chance, driven_by_model=False),
    "foreground-random": Strategy(
        by_chance.foreground_random, _no_worth, by_chance.draws_of, _chance, driven_by_model=False
    ),
    "entropy": Strategy(greedy.entropy, greedy.entropy_of),
    "margin": Strategy(greedy.margin, greedy.margin_of),
    "bald": Strategy(greedy.bald, greedy.bald_of),
    "coreset": Strategy(coreset.coreset, coreset.distance_of, coreset.draws_of, _chance),
    "ripu": Strategy(greedy.ripu, greedy.ripu_of),
    "disagreement": Strategy(greedy.disagreement, greedy.disagreement_of),
    "oracle": Strategy(greedy.oracle, greedy.error_of, weighs_costs=True),
}


def strategy(name: str) -> Strategy:
    """Raises BadInput naming what is known."""
    if name not in STRATEGIES:
        raise BadInput(f"strategy {name!r}", "is unknown", f"one of {', '.join(STRATEGIES)}")
    return STRATEGIES[name]
