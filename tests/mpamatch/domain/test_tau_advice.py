import pytest

from mpamatch.domain.reliability import Precision
from mpamatch.domain.tau_advice import TAUS, advise_taus
from mpamatch.errors import BadInput
from tests.mpamatch.domain.tallied import honest, tile

HOW = Precision(draws=300)
NAMES = ("background", "gland")


def test_the_lowest_threshold_that_is_good_enough_is_suggested() -> None:
    """At 0.60 up 90 of 100 are right in all, at 0.80 up 96, at 0.90 up 99."""
    levels = {160: (400, 320), 210: (200, 186), 240: (400, 396)}
    tiles = [tile(n, f"g{n}", levels) for n in range(8)]
    for target, tau, acceptance in ((0.90, 0.5, 0.902), (0.95, 0.63, 0.97), (0.98, 0.83, 0.99)):
        found = advise_taus(tiles, NAMES, target, HOW, seed=1)[1]
        assert found.tau == tau
        assert found.bounds == (tau, tau)  # every group is alike
        assert found.acceptance == pytest.approx(acceptance)
    assert found.passed == pytest.approx(0.4)
    assert "gland: tau 0.83 (0.83 to 0.83), where 99.0% are right" in found.says


def test_no_threshold_being_good_enough_is_said_with_the_best_there_is() -> None:
    tiles = [tile(n, f"g{n}", {160: (500, 300), 250: (500, 450)}) for n in range(8)]
    found = advise_taus(tiles, NAMES, 0.95, HOW, seed=1)[1]
    assert found.tau is None
    assert found.bounds == (TAUS[-1], None)
    assert found.says == "gland: no threshold is good enough: from 0.98 up 90.0% are right"


def test_too_few_labels_are_said_and_give_no_figure() -> None:
    tiles = [tile(n, f"g{n}", {250: (10, 10)}) for n in range(5)]
    background, gland = advise_taus(tiles, NAMES, 0.95, HOW, seed=1)
    assert (gland.tau, gland.bounds, gland.acceptance) == (None, None, None)
    assert gland.says == ("gland: not enough labels: predicted in 5 groups held back from training, 6 are needed")
    assert "predicted in 0 groups" in background.says
    one = advise_taus(tiles[:1], NAMES, 0.95, HOW, seed=1)[1]
    assert "predicted in 1 tile held back" in one.says


def test_a_few_groups_count_by_tile() -> None:
    tiles = [tile(n, f"g{n % 2}", {250: (100, 99)}) for n in range(8)]
    assert advise_taus(tiles, NAMES, 0.95, HOW, seed=1)[1].units == 8


def test_the_interval_holds_what_many_more_patients_would_say() -> None:
    """Patients differ in how honest the model is with them; nine in ten intervals should hold the truth of all."""
    many = [honest(n, f"g{n}", n, over=0.02 * (n % 5 - 1), pixels=2000) for n in range(200)]
    truth = advise_taus(many, NAMES, 0.9, Precision(draws=1), seed=1)[1].tau
    assert truth is not None
    held = 0
    for start in range(0, 200, 10):
        found = advise_taus(many[start : start + 10], NAMES, 0.9, HOW, seed=1)[1]
        assert found.bounds is not None
        held += found.bounds[0] <= truth <= (found.bounds[1] or 1)
    assert held >= 15


def test_the_order_of_the_tiles_does_not_matter() -> None:
    tiles = [honest(n, f"g{n % 7}", n, over=0.01 * n) for n in range(14)]
    assert advise_taus(tiles, NAMES, 0.9, HOW, seed=3) == advise_taus(tiles[::-1], NAMES, 0.9, HOW, seed=3)


def test_a_precision_that_is_none_is_refused() -> None:
    for target in (0.0, 1.0, float("nan")):
        with pytest.raises(BadInput):
            advise_taus([], NAMES, target, HOW, seed=1)


def test_nothing_confident_is_said() -> None:
    tiles = [tile(n, f"g{n}", {90: (100, 99)}) for n in range(8)]
    found = advise_taus(tiles, NAMES, 0.95, HOW, seed=1)[1]
    assert found.tau is None
    assert found.says == "gland: no pixel reaches confidence 0.5"
