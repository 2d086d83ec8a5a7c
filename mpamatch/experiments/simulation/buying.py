"""One round's questions: the strategy picks batch after batch, the oracle answers, until the clicks are spent. Pure.

The budget is a purse: what a round leaves, the next one may spend. The first answer that the purse cannot pay ends the
round, and nothing cheaper is looked for: else a strategy would be bent towards what is easy to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mpamatch.domain.candidates import Batch, Candidates, Picks, Taken
from mpamatch.domain.novelty import Vectors
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.strategies import strategy
from mpamatch.domain.tiling import Box
from mpamatch.experiments.simulation.boxes import as_rows
from mpamatch.experiments.simulation.oracle import Bought


@dataclass(frozen=True)
class Purse:
    """``left`` clicks, and what an answer takes on average as far as anybody knows: by the images of the start."""

    left: float
    clicks_each: float

    @property
    def batch_size(self) -> int:
        """How many answers it should pay for."""
        return max(1, round(self.left / self.clicks_each))


@dataclass(frozen=True)
class Asked:
    """Who picks with which chance; ``draw_round`` is the round that chance hangs on."""

    policy: RankingPolicy
    seed: int
    draw_round: int


def buy(
    found: Candidates,
    asked: Asked,
    known: Sequence[tuple[int, Box]],
    purse: Purse,
    price: Callable[[int, Box], float],
) -> list[tuple[Picks, int, Box, float]]:
    """Picks of one row each with their image, box and clicks, in the order in which they were asked.

    ``known`` are the boxes that are labelled already: nothing that shares a pixel with them is asked.
    """
    bought: list[tuple[Picks, int, Box, float]] = []
    left, place = purse.left, 0
    while True:
        size = Purse(left, purse.clicks_each).batch_size
        picks = strategy(asked.policy.strategy).pick(found, _batch(found, asked, known, bought, size, place))
        if not len(picks):
            return bought
        for row in range(len(picks)):
            tile, box = _where(found, int(picks.ids[row]))
            clicks = price(tile, box)
            if clicks > left:
                return bought
            left -= clicks
            bought.append((picks.in_order(np.array([row])), tile, box, clicks))
        place += 1


def as_bought(
    answers: Sequence[tuple[Picks, int, Box, float]], round_number: int, wrong: Callable[[int, Box], float]
) -> list[Bought]:
    """The same as records; ``wrong`` is the share of a box that the model had wrong."""
    return [
        Bought(
            tile=tile,
            box=box,
            clicks=clicks,
            round_number=round_number,
            stratum=pick.strata[0],
            score=float(pick.score[0]),
            propensity=float(pick.propensity[0]),
            wrong_share=wrong(tile, box),
        )
        for pick, tile, box, clicks in answers
    ]


def _batch(
    found: Candidates,
    asked: Asked,
    known: Sequence[tuple[int, Box]],
    bought: Sequence[tuple[Picks, int, Box, float]],
    size: int,
    place: int,
) -> Batch:
    taken = [*known, *((tile, box) for _, tile, box, _ in bought)]
    return Batch(
        size=min(size, len(found)),
        policy=asked.policy,
        seed=asked.seed,
        round_number=asked.draw_round,
        place=place,
        seeds=_vectors_of(found, bought),
        taken=Taken(np.array([tile for tile, _ in taken], np.int64), as_rows([box for _, box in taken])),
    )


def _vectors_of(found: Candidates, bought: Sequence[tuple[Picks, int, Box, float]]) -> Vectors | None:
    """What the answers of this round look like, where the model says so."""
    rows = np.searchsorted(found.ids, [int(pick.ids[0]) for pick, *_ in bought])
    if found.vectors is None or not len(rows):
        return None
    places = found.vector_rows[rows]
    return found.vectors[places[places >= 0]]


def _where(found: Candidates, row_id: int) -> tuple[int, Box]:
    row = int(np.searchsorted(found.ids, row_id))
    if found.boxes is None:
        raise ValueError("candidates of a simulation have boxes")
    return int(found.images[row]), Box(*found.boxes[row].tolist())
