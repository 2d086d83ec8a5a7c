from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpamatch.domain.cost import CostModel
from mpamatch.domain.factors import Factors, Scales, check_factors, normalised, scales_of, score
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.errors import BadInput

POLICY = RankingPolicy()
share = st.floats(0, 1)


def one(area_px: float = 2000.0, u: float = 0.5, **known: float) -> Factors:
    columns = {name: np.array([value]) for name, value in known.items()}
    return Factors.of(area_px=np.array([area_px]), uncertainty=np.array([u]), policy=POLICY, **columns)


def score_of(raw: Factors, policy: RankingPolicy = POLICY, scales: Scales | None = None) -> float:
    scales = Scales(bald=2.0, distance=0.8) if scales is None else scales
    return float(score(normalised(raw, policy, scales), policy)[0])


@given(share, share, share, st.floats(0, 2), st.integers(1, 10**8))
def test_the_score_is_the_documented_sum(u, imp, dis, distance, area):
    raw = one(area, u, impurity=imp, disagreement=dis, distance=distance)
    clicks = 1 + 2 * math.sqrt(math.pi * area) / 12
    cost = min((3 + 1.1 * clicks) / (3 + 1.1 * 60), 1)
    total = 0.4 * u + 0.2 * imp + 0.2 * dis + 0.2 * min(distance / 0.8, 1)
    expected = total * area / (area + 256) / (0.25 + 0.75 * cost) ** 0.5
    assert score_of(raw) == pytest.approx(expected)


@pytest.mark.parametrize("factor", ["uncertainty", "impurity", "disagreement", "bald", "distance"])
@settings(max_examples=40)
@given(share, share, share, share, share, st.integers(1, 100_000))
def test_a_region_never_scores_less_when_a_factor_rises(factor, u, imp, dis, bald, other, area):
    low = one(area, u, impurity=imp, disagreement=dis, bald=bald, distance=imp)
    values = sorted([getattr(low, factor)[0], other])
    scores = [score_of(replace(low, **{factor: np.array([value])})) for value in values]
    assert scores[0] <= scores[1]


@pytest.mark.parametrize(
    ("factor", "most"), [("uncertainty", 1), ("impurity", 1), ("disagreement", 1), ("bald", 0.5), ("distance", 0.8)]
)
@settings(max_examples=40)
@given(share, share, share, st.floats(0, 0.98), st.floats(0.01, 1), st.integers(1, 100_000))
def test_a_region_scores_more_when_a_factor_rises(factor, most, u, imp, dis, start, by, area):
    """``most``: from where on a figure that is stretched by the pool's scale counts as 1."""
    low = one(area, u, impurity=imp, disagreement=dis)
    values = (most * start, most * min(start + by, 1))
    less, more = (score_of(replace(low, **{factor: np.array([value])})) for value in values)
    assert less < more


@given(share, st.integers(1, 100_000), st.floats(0, 300), st.floats(0, 300))
def test_a_dearer_label_never_scores_more(u, area, clicks, more):
    raw = one(area, u)
    cheap, dear = (score_of(replace(raw, clicks=np.array([c]))) for c in sorted([clicks, more]))
    assert dear <= cheap


def test_a_speck_does_not_win_by_being_cheap():
    assert score_of(one(64, 0.6)) < score_of(one(5000, 0.5))
    policy = replace(POLICY, support_px=0.0)
    assert score_of(one(64, 0.6), policy) > score_of(one(5000, 0.5), policy)


def test_by_worth_per_minute_twice_the_seconds_is_half_the_score():
    policy = replace(POLICY, cost_floor=0.0, cost_exponent=1.0)
    raw = one()
    seconds = float(policy.cost.seconds(raw.clicks)[0])
    twice = np.array([(2 * seconds - 3) / 1.1])
    assert score_of(replace(raw, clicks=twice), policy) == pytest.approx(score_of(raw, policy) / 2)


def test_bald_stands_beside_entropy_on_its_scale():
    unknown = np.array([0.5, 0.3, 0.4])
    raw = Factors.of(area_px=np.full(3, 1e4), uncertainty=unknown, policy=POLICY, bald=np.array([0.01, 0.03, np.nan]))
    scales = scales_of(raw)
    assert scales.bald == pytest.approx(0.8 / 0.04)
    assert normalised(raw, POLICY, scales).uncertainty == pytest.approx([0.2, 0.6, 0.4])


def test_a_bald_that_is_0_wherever_it_is_known_leaves_the_entropy():
    entropy = np.array([0.9, 0.8, 0.3])
    raw = Factors.of(area_px=np.full(3, 1e4), uncertainty=entropy, policy=POLICY, bald=np.array([0.0, 0.0, np.nan]))
    assert normalised(raw, POLICY, scales_of(raw)).uncertainty == pytest.approx(entropy)


def test_the_farthest_twentieth_counts_as_wholly_novel_and_nothing_known_as_not():
    raw = Factors.of(area_px=np.full(101, 1e4), uncertainty=np.zeros(101), policy=POLICY, distance=np.arange(101) / 100)
    scales = scales_of(raw)
    assert scales.distance == pytest.approx(0.95)
    novelty = normalised(raw, POLICY, scales).novelty
    assert novelty[[0, 95, 100]] == pytest.approx([0, 1, 1])
    assert normalised(one(), POLICY, scales).novelty == [0]
    assert scales_of(one()).distance == 0


def test_what_is_corrected_costs_by_what_is_expected_to_be_wrong():
    policy = replace(POLICY, cost_mode="correction")
    raw = Factors.of(
        area_px=np.array([500.0, 500.0]),
        uncertainty=np.zeros(2),
        policy=policy,
        perimeter_px=np.array([120.0, np.nan]),
        mean_confidence=np.array([0.6, 0.6]),
    )
    outline = 2 * math.sqrt(math.pi * 500)
    assert raw.clicks == pytest.approx([0.4 * (1 + 0.5 * 10), 0.4 * (1 + 0.5 * outline / 12)])


@pytest.mark.parametrize("bad", [{"uncertainty": 1.2}, {"impurity": -0.1}, {"bald": 1.5}, {"area_px": 0.0}])
def test_a_factor_out_of_range_is_refused(bad):
    raw = replace(one(), **{name: np.array([value]) for name, value in bad.items()})
    with pytest.raises(BadInput, match="region 7"):
        check_factors(np.array([7]), raw)
    check_factors(np.array([7]), one())


@pytest.mark.parametrize(
    "bad", [{"px_per_click": 0.0}, {"seconds_fixed": -1.0}, {"seconds_fixed": 0.0, "seconds_per_click": 0.0}]
)
def test_a_cost_model_that_makes_labels_free_is_refused(bad):
    with pytest.raises(BadInput):
        CostModel(**bad)
