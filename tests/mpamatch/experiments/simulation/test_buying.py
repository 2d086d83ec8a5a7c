from __future__ import annotations

import numpy as np
import pytest

from mpamatch.domain.candidates import Candidates
from mpamatch.domain.factors import Factors
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.tiling import Box
from mpamatch.experiments.simulation.boxes import as_rows
from mpamatch.experiments.simulation.buying import Asked, Purse, as_bought, buy


def offered(count: int = 60) -> Candidates:
    """Boxes of 10 px in 6 images that may lie on each other; each one's uncertainty is its own."""
    rng = np.random.default_rng(1)
    boxes = [Box(int(x), int(y), 10, 10) for x, y in rng.integers(0, 60, (count, 2))]
    policy = RankingPolicy()
    return Candidates.of(
        ids=np.arange(count) + 100,
        images=np.arange(count) % 6,
        groups=np.arange(count) % 3,
        factors=Factors.of(area_px=np.full(count, 50.0), uncertainty=rng.random(count), policy=policy),
        boxes=as_rows(boxes),
        vectors=rng.standard_normal((count, 4)),
    )


def asked(name: str, seed: int = 0) -> Asked:
    return Asked(RankingPolicy(strategy=name), seed, 0)


def apart(one: Box, other: Box) -> bool:
    return (
        one.x_px + one.width_px <= other.x_px
        or other.x_px + other.width_px <= one.x_px
        or one.y_px + one.height_px <= other.y_px
        or other.y_px + other.height_px <= one.y_px
    )


def price(tile: int, box: Box) -> float:
    return 1.0 + (box.x_px * 7 + box.y_px) % 5


@pytest.mark.parametrize("name", ["random", "foreground-random", "entropy", "mpamatch", "coreset"])
def test_answers_are_bought_until_the_next_one_is_too_dear_and_none_lie_on_each_other(name: str) -> None:
    found, known = offered(), [(0, Box(0, 0, 30, 60))]
    answers = buy(found, asked(name), known, Purse(40.0, 3.0), price)
    spent = sum(clicks for *_, clicks in answers)
    assert spent <= 40.0
    everything = [*known, *((tile, box) for _, tile, box, _ in answers)]
    for place, (tile, box) in enumerate(everything):
        assert all(apart(box, other) for at, other in everything[:place] if at == tile)
    again = buy(found, asked(name), known, Purse(40.0, 3.0), price)
    assert [box for _, _, box, _ in again] == [box for _, _, box, _ in answers]
    prices: list[float] = []

    def noted(tile: int, box: Box) -> float:
        prices.append(price(tile, box))
        return prices[-1]

    buy(found, asked(name), known, Purse(40.0, 3.0), noted)
    assert len(prices) == len(answers) + 1
    assert spent + prices[-1] > 40.0


def test_a_purse_that_pays_for_more_than_one_batch_asks_for_more() -> None:
    answers = buy(offered(), asked("entropy"), [], Purse(60.0, 30.0), price)
    assert len(answers) > 2
    assert sum(clicks for *_, clicks in answers) > 60.0 - 5.0


def test_an_empty_pool_ends_a_round() -> None:
    answers = buy(offered(12), asked("random"), [], Purse(1e6, 3.0), price)
    tiles = [(tile, box) for _, tile, box, _ in answers]
    assert 6 <= len(tiles) <= 12
    everything = [(tile, Box(0, 0, 70, 70)) for tile in range(6)]
    assert buy(offered(12), asked("random"), everything, Purse(1e6, 3.0), price) == []


def test_the_first_answer_that_is_too_dear_ends_the_round_and_nothing_cheaper_is_looked_for() -> None:
    order = [box for _, _, box, _ in buy(offered(), asked("entropy"), [], Purse(30.0, 1.0), lambda t, b: 1.0)]

    def dear(tile: int, box: Box) -> float:
        return 1000.0 if box == order[3] else 1.0

    assert [box for _, _, box, _ in buy(offered(), asked("entropy"), [], Purse(30.0, 1.0), dear)] == order[:3]


def test_a_record_says_why_and_how_wrong() -> None:
    answers = buy(offered(), asked("entropy"), [], Purse(10.0, 3.0), price)
    records = as_bought(answers, 2, lambda tile, box: 0.25)
    assert {one.wrong_share for one in records} == {0.25}
    assert {one.round_number for one in records} == {2}
    assert [one.score for one in records] == sorted((one.score for one in records), reverse=True)
    assert {(one.stratum, one.propensity) for one in records} == {("score", 1.0)}
