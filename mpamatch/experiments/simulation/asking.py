"""One round's questions and answers: the model looks, the strategy picks, the oracle answers. Needs torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from mpamatch.domain.candidates import Candidates
from mpamatch.domain.classes import IGNORE
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.tiling import Box
from mpamatch.experiments.simulation.boxes import as_rows, lattice, shares_in
from mpamatch.experiments.simulation.buying import Asked, Purse, as_bought, buy
from mpamatch.experiments.simulation.hidden_pool import HiddenPool
from mpamatch.experiments.simulation.looking import Seen, look_at_pool
from mpamatch.experiments.simulation.offers import (
    ChanceBoxes,
    boxes_offered,
    regions_offered,
    tiles_offered,
    truth_offered,
)
from mpamatch.experiments.simulation.oracle import Bought, clicks_for, mean_clicks
from mpamatch.experiments.simulation.plan import SimulatedCell
from mpamatch.experiments.simulation.strategies import SimulatedStrategy, simulated_strategy
from mpamatch.inference import Predictor


def ask(
    cell: SimulatedCell,
    pool: HiddenPool,
    start: Sequence[int],
    before: Sequence[Bought],
    round_number: int,
    predictor: Predictor,
    *,
    stop: Callable[[], bool],
) -> list[Bought]:
    """What the cell's strategy buys in a round (from 1 on) with the model that the round before left.

    ``start`` are the images that are known whole, ``before`` the answers so far. Raises Cancelled.
    """
    strategy = simulated_strategy(cell.strategy)
    policy = strategy.policy(tau=cell.recipe.tau, rounds=cell.rounds)
    whole = strategy.offer == "tiles"
    # Whole images come in one order for all rounds: what was too dear comes first again.
    turn = 0 if whole else round_number - 1
    known = [*((tile, pool.whole(tile)) for tile in start), *((one.tile, one.box) for one in before)]
    seen = _look(cell, strategy, pool, known, predictor, stop) if strategy.asks_model else None
    answers = buy(
        _offered(cell, strategy, policy, pool, seen, turn),
        Asked(policy, cell.seed, turn),
        known,
        Purse(
            left=cell.budget_clicks * round_number - sum(one.clicks for one in before),
            clicks_each=_usual_clicks(cell, pool, start, whole=whole),
        ),
        lambda tile, box: clicks_for(pool.truth(tile), box),
    )
    return as_bought(answers, round_number, _wrong_shares(pool, predictor, seen))


def _look(
    cell: SimulatedCell,
    strategy: SimulatedStrategy,
    pool: HiddenPool,
    known: Sequence[tuple[int, Box]],
    predictor: Predictor,
    stop: Callable[[], bool],
) -> list[Seen]:
    boxes: dict[int, list[Box]] = {}
    for tile, box in known:
        boxes.setdefault(tile, []).append(box)
    return look_at_pool(
        predictor,
        pool,
        boxes,
        tau=cell.recipe.tau,
        box_side_px=cell.box_side_px,
        second_looks=strategy.second_looks,
        stop=stop,
    )


def _offered(
    cell: SimulatedCell,
    strategy: SimulatedStrategy,
    policy: RankingPolicy,
    pool: HiddenPool,
    seen: Sequence[Seen] | None,
    turn: int,
) -> Candidates:
    if strategy.offer == "tiles":
        return tiles_offered(pool)
    drawn = ChanceBoxes.draw(pool, cell.box_side_px, seed=cell.seed, round_number=turn)
    if strategy.offer == "boxes" or seen is None:
        return boxes_offered(pool, drawn, seen)
    if strategy.offer == "truth":
        return truth_offered(pool, drawn, seen, policy)
    return regions_offered(pool, drawn, seen, policy, seed=cell.seed, round_number=turn)


def _usual_clicks(cell: SimulatedCell, pool: HiddenPool, start: Sequence[int], *, whole: bool) -> float:
    """What an answer takes on average, by the images that are known from the start."""
    boxes = {t: [pool.whole(t)] if whole else lattice(pool.whole(t), cell.box_side_px) for t in start}
    return float(np.mean([mean_clicks(pool.truth(tile), inside) for tile, inside in boxes.items()]))


def _wrong_shares(pool: HiddenPool, predictor: Predictor, seen: Sequence[Seen] | None) -> Callable[[int, Box], float]:
    """What share of a box the model has wrong; it looks at an image once where nobody has asked it yet."""
    predicted: dict[int, npt.NDArray[np.uint8]] = {}

    def wrong(tile: int, box: Box) -> float:
        if seen is not None:
            predicted[tile] = seen[tile].predicted
        elif tile not in predicted:
            predicted[tile] = predictor.predict(pool.image(tile)).argmax(axis=0).astype(np.uint8)
        truth = pool.truth(tile)
        return float(shares_in((predicted[tile] != truth) & (truth != IGNORE), as_rows([box]))[0])

    return wrong
