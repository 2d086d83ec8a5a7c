from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from mpamatch.domain.factors import Scales
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.record import FirstRegion, RankedBy, Record, recompute, recompute_key

REGION = FirstRegion(
    area_px=1000.0,
    uncertainty=0.5,
    margin=0.2,
    impurity=0.3,
    disagreement=0.1,
    mean_confidence=0.6,
    predicted_class=1,
    clicks=20.0,
    bald=0.03,
    distance=0.2,
)
BY = RankedBy(RankingPolicy(), Scales(bald=10.0, distance=0.5), seed=1, round_number=2)
RECORD = Record(BY, 5, "score", 0.0, 0.25, 1.0, 1, REGION)


def test_a_score_follows_from_the_record_by_hand() -> None:
    total = 0.4 * 0.3 + 0.2 * 0.3 + 0.2 * 0.1 + 0.2 * 0.4
    cost = (3 + 1.1 * 20) / (3 + 1.1 * 60)
    expected = total * 1000 / 1256 / math.sqrt(0.25 + 0.75 * cost)
    assert recompute(RECORD) == pytest.approx(expected)
    assert recompute_key(RECORD) == pytest.approx(math.log(expected) + 0.25)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("entropy", 0.5), ("margin", 0.8), ("bald", 0.3), ("ripu", 0.15), ("disagreement", 0.1), ("coreset", 0.2)],
)
def test_every_strategy_has_its_own_score(name: str, expected: float) -> None:
    by = replace(BY, policy=replace(BY.policy, strategy=name))
    assert recompute(replace(RECORD, ranked_by=by)) == pytest.approx(expected)


@pytest.mark.parametrize("stratum", ["audit", "cold"])
def test_what_was_drawn_blindly_has_no_score(stratum: str) -> None:
    assert recompute(replace(RECORD, stratum=stratum)) == 0.0
    assert recompute(replace(RECORD, region=None)) == 0.0
    assert recompute_key(replace(RECORD, region=None)) == -math.inf


def test_what_an_order_was_ranked_by_comes_back_from_json() -> None:
    assert RankedBy.from_json(json.loads(json.dumps(BY.to_json()))) == BY
