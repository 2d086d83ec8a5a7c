from itertools import pairwise

import numpy as np
import pytest

from mpamatch.domain.reliability import EDGES, Precision, class_at_tau, reliability
from mpamatch.domain.tallies import TileTally, tally
from tests.mpamatch.domain.tallied import honest, tile

HOW = Precision(draws=300)


def test_every_figure_is_what_counting_pixels_says() -> None:
    rng = np.random.default_rng(4)
    shape = (8, 40, 40)
    guess, mask = rng.integers(0, 3, (2, *shape)).astype(np.uint8)
    level = rng.integers(60, 256, shape).astype(np.uint8)
    mask[:, :5] = 255
    tiles = [TileTally(n, f"g{n}", tally(guess[n], level[n], mask[n], 3)) for n in range(8)]
    taus = np.array([0.8, 0.9, 0.97])
    everything, *by_class = reliability(tiles, taus, HOW, seed=1)
    seen, confidence = mask < 255, level / 255
    assert everything.pixels == seen.sum() == sum(one.pixels for one in by_class)
    for class_id, found in [(None, everything), *enumerate(by_class)]:
        mine = seen if class_id is None else seen & (guess == class_id)
        error = 0.0
        for one in found.bins:
            top = confidence <= 1 if one.high == 1 else confidence < one.high
            inside = mine & (confidence >= one.low) & top
            assert one.pixels == inside.sum()
            if not inside.any():
                assert (one.confidence, one.acceptance, one.bounds) == (None, None, None)
                continue
            right = (guess == mask)[inside].mean()
            assert one.acceptance == pytest.approx(right)
            assert one.confidence == pytest.approx(confidence[inside].mean())
            assert one.bounds is not None
            assert one.bounds[0] <= right <= one.bounds[1]
            error += inside.sum() * abs(right - confidence[inside].mean())
            assert one.dice == pytest.approx(_dice(guess, mask, seen & (confidence >= one.low) & top, class_id))
        assert found.ece == pytest.approx(error / mine.sum())
        assert found.at_tau.tau == (None if class_id is None else taus[class_id])
        passing = mine & (confidence >= taus[guess])
        assert found.at_tau.passed == pytest.approx(passing.sum() / mine.sum())
        assert found.at_tau.acceptance == pytest.approx((guess == mask)[passing].mean())


def _dice(guess: np.ndarray, mask: np.ndarray, where: np.ndarray, class_id: int | None) -> float:
    g, m = guess[where], mask[where]
    wanted = range(3) if class_id is None else [class_id]
    return float(np.mean([2 * ((g == c) & (m == c)).sum() / ((g == c).sum() + (m == c).sum()) for c in wanted]))


def test_an_honest_model_lies_on_the_diagonal_and_an_overconfident_one_below_it() -> None:
    for over in (0.0, 0.1):
        tiles = [honest(n, f"g{n}", n, over=over) for n in range(8)]
        found = reliability(tiles, (0.95, 0.95), HOW, seed=1)[0]
        for one in found.bins[2:8]:
            assert one.acceptance == pytest.approx(one.confidence - over, abs=0.03)
        assert found.ece == pytest.approx(over, abs=0.02)


def test_the_order_of_the_tiles_does_not_matter_and_the_seed_decides() -> None:
    tiles = [honest(n, f"g{n % 7}", n) for n in range(14)]
    first = reliability(tiles, (0.95, 0.95), HOW, seed=1)
    assert reliability(tiles[::-1], (0.95, 0.95), HOW, seed=1) == first
    assert reliability(tiles, (0.95, 0.95), HOW, seed=2) != first


def test_one_class_at_another_threshold_is_what_the_whole_says_of_it() -> None:
    for groups in (4, 8):
        tiles = [honest(n, f"g{n % groups}", n) for n in range(16)]
        for tau in (0.6, 0.9):
            whole = reliability(tiles, (0.5, tau), HOW, seed=1)
            assert class_at_tau(tiles, 2, 1, tau, HOW, seed=1) == whole[2].at_tau
            assert (whole[2].at_tau.bounds is None) == (groups < 6)


def test_few_groups_give_figures_without_an_interval() -> None:
    tiles = [honest(n, f"g{n % 5}", n) for n in range(20)]
    found = reliability(tiles, (0.95, 0.95), HOW, seed=1)[2]
    assert (found.unit, found.units, found.tiles) == ("group", 5, 20)
    assert found.at_tau.acceptance is not None
    assert {one.bounds for one in found.bins} == {None}


def test_a_group_that_differs_makes_the_interval_wide() -> None:
    same = [tile(n, f"g{n}", {250: (1000, 900)}) for n in range(8)]
    one_odd = [*same[:7], tile(7, "g7", {250: (1000, 400)})]
    widths = []
    for tiles in (same, one_odd):
        bounds = reliability(tiles, (0.95, 0.95), HOW, seed=1)[0].at_tau.bounds
        assert bounds is not None
        widths.append(bounds[1] - bounds[0])
    assert widths[0] == 0
    assert widths[1] > 0.1


def test_nothing_counted_is_no_figure() -> None:
    for found in reliability([], (0.95, 0.95), HOW, seed=1):
        assert (found.pixels, found.units, found.ece, found.at_tau.acceptance) == (0, 0, None, None)
        assert [(one.low, one.high) for one in found.bins] == list(pairwise(EDGES))
