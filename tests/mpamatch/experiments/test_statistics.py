import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mpamatch.domain import metrics
from mpamatch.errors import BadInput
from mpamatch.experiments.statistics import ScoredSet, paired_bootstrap, paired_difference, summary

DICE = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=3, max_size=8)


def scored(seed: int, images: int = 6, better: int = 0) -> ScoredSet:
    """Random confusions; ``better`` moves that many pixels of each image from wrong to right."""
    rng = np.random.default_rng(seed)
    matrices = rng.integers(50, 100, (images, 2, 2))
    matrices[:, 0, 1] -= better
    matrices[:, 0, 0] += better
    return ScoredSet(tuple(f"image {n}" for n in range(images)), matrices)


def test_mean_and_spread_are_those_of_numpy_over_what_is_known() -> None:
    found = summary([0.5, math.nan, 0.7, 0.9])
    assert found.n == 3
    assert found.mean == pytest.approx(np.mean([0.5, 0.7, 0.9]))
    assert found.sd == pytest.approx(np.std([0.5, 0.7, 0.9], ddof=1))
    assert math.isnan(summary([0.5]).sd)
    assert math.isnan(summary([]).mean)


@given(DICE)
def test_the_interval_is_scipys_of_a_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    arm, baseline = (list(side) for side in zip(*pairs, strict=True))
    differences = np.subtract(arm, baseline)
    found = paired_difference(arm, baseline)
    if np.ptp(differences) < 1e-9:  # scipy gives up on values without spread
        assert found.high - found.low == pytest.approx(0, abs=1e-7)
        return
    wanted = stats.ttest_rel(arm, baseline).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-9)
    assert found.mean == pytest.approx(differences.mean())
    assert found.up + found.down + found.equal == found.n == len(pairs)


def test_one_pair_has_a_sign_and_no_interval() -> None:
    found = paired_difference([0.8], [0.7])
    assert (found.n, found.up, found.down, found.equal) == (1, 1, 0, 0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_a_pair_with_a_gap_is_left_out() -> None:
    found = paired_difference([0.8, math.nan, 0.6], [0.7, 0.5, 0.7])
    assert (found.n, found.up, found.down) == (2, 1, 1)
    with pytest.raises(BadInput):
        paired_difference([0.8], [0.7, 0.6])


def test_the_bootstrap_over_images_is_scipys_of_the_same_figure() -> None:
    arm, baseline = scored(1, images=12, better=5), scored(1, images=12)

    def difference(index: np.ndarray) -> float:
        pooled = [side.confusions[index.astype(int)].sum(axis=0) for side in (arm, baseline)]
        return metrics.mean_dice(pooled[0]) - metrics.mean_dice(pooled[1])

    other = stats.bootstrap(
        (np.arange(12),), difference, n_resamples=4000, method="percentile", vectorized=False, rng=3
    ).confidence_interval
    low, high = paired_bootstrap([arm], [baseline], seed=0, draws=4000)
    width = other.high - other.low
    assert low == pytest.approx(other.low, abs=0.1 * width)
    assert high == pytest.approx(other.high, abs=0.1 * width)


def test_the_bootstrap_is_the_same_each_time_and_narrower_where_seeds_agree() -> None:
    baseline = [scored(n) for n in range(4)]
    agreeing = [scored(n, better=10) for n in range(4)]
    split = [scored(n, better=10 if n % 2 else -10) for n in range(4)]
    first = paired_bootstrap(agreeing, baseline, seed=1)
    assert first == paired_bootstrap(agreeing, baseline, seed=1)
    assert first[0] > 0
    wide = paired_bootstrap(split, baseline, seed=1)
    assert wide[0] < 0 < wide[1]
    assert wide[1] - wide[0] > 2 * (first[1] - first[0])


def test_more_seeds_of_the_same_folds_do_not_make_more_images() -> None:
    """Each fold's images are the same for every seed: what they leave open is not halved by another seed."""
    folds, base = [scored(10, images=8), scored(11, images=6)], [scored(0, images=8), scored(1, images=6)]
    low, high = paired_bootstrap(folds * 8, base * 8, seed=1)
    alone = [paired_bootstrap([a], [b], seed=1) for a, b in zip(folds, base, strict=True)]
    assert high - low > 0.9 * np.hypot(*(b - a for a, b in alone)) / 2


def test_equal_arms_have_an_interval_of_nothing() -> None:
    # Other images in each unit: these are drawn unit by unit.
    sets = [scored(0, images=3), scored(1, images=5)]
    assert paired_bootstrap(sets, sets, seed=0) == (0.0, 0.0)


def test_arms_that_scored_other_images_are_refused() -> None:
    with pytest.raises(BadInput, match="other images"):
        paired_bootstrap([scored(0, images=3)], [scored(0, images=4)], seed=0)
