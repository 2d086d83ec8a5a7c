import pytest

from mpamatch.domain.drift import drift
from mpamatch.domain.reliability import Precision
from tests.mpamatch.domain.tallied import tile

HOW = Precision(draws=300)
TAUS = (0.95, 0.95)


def champion(level: int, right: int, *, tiles: int = 12, groups: int = 6) -> list:
    """Every pixel at one level, so many of 1000 right, some more or fewer by the tile."""
    return [tile(n, f"g{n % groups}", {level: (1000, right + 4 * (n % 3))}) for n in range(tiles)]


def test_surer_and_less_accepted_is_an_alarm() -> None:
    found = drift({"m1": champion(244, 960), "m2": champion(248, 930), "m3": champion(253, 900)}, TAUS, HOW, seed=1)
    assert found.state == "alarm"
    assert found.confidence is not None
    assert found.acceptance is not None
    assert found.confidence.point == pytest.approx(9 / 255)
    assert found.acceptance.point == pytest.approx(-0.06)
    assert "may be confirming themselves" in found.says
    assert "confidence changed by +0.035" in found.says
    assert [one.version for one in found.standings] == ["m1", "m2", "m3"]
    assert found.standings[0].acceptance == pytest.approx(0.964)


@pytest.mark.parametrize(
    "second",
    [champion(253, 990), champion(244, 900), champion(243, 900)],
    ids=["surer and more accepted", "as sure, less accepted", "less sure, less accepted"],
)
def test_anything_else_is_quiet(second: list) -> None:
    found = drift({"m1": champion(244, 960), "m2": second}, TAUS, HOW, seed=1)
    assert found.state == "quiet"
    assert found.says.startswith("No sign")


def test_one_group_alone_raises_no_alarm() -> None:
    odd = [*champion(253, 960)[:-2], *[tile(n, "g5", {253: (1000, 500)}) for n in (10, 11)]]
    found = drift({"m1": champion(244, 960), "m2": odd}, TAUS, HOW, seed=1)
    assert found.acceptance is not None
    assert found.acceptance.point < -0.02
    assert found.state == "quiet"


def test_only_tiles_that_every_champion_saw_count() -> None:
    more = [*champion(253, 900), *[tile(50 + n, "g9", {253: (9000, 0)}) for n in range(9)]]
    found = drift({"m1": champion(244, 960), "m2": more}, TAUS, HOW, seed=1)
    assert (found.tiles, found.groups) == (12, 6)
    assert found.standings[1].acceptance == pytest.approx(0.904)


def test_what_is_missing_is_said() -> None:
    one = champion(244, 960)
    assert drift({}, TAUS, HOW, seed=1).says == (
        "Too early to say: it takes two champions that saw the same audit tiles."
    )
    assert drift({"m1": one}, TAUS, HOW, seed=1).state == "too early"
    few = drift({"m1": one[:11], "m2": one}, TAUS, HOW, seed=1)
    assert few.says == "Too early to say: 11 audit tiles of 6 groups are labelled, 12 of 4 are needed."
    unsure = drift({"m1": one, "m2": champion(200, 900)}, TAUS, HOW, seed=1)
    assert unsure.says == "Too early to say: one of the champions has no pixel at or above tau."
    assert unsure.standings[1].passed == 0


def test_a_slow_slide_over_many_champions_is_found_though_no_step_stands_out() -> None:
    sliding = {f"m{n}": champion(244 + n, 960 - 5 * n) for n in range(6)}
    assert drift(sliding, TAUS, HOW, seed=1).state == "alarm"


def test_each_class_passes_by_its_own_tau() -> None:
    """What is too unsure for the one class is not for the other: only there acceptance falls."""
    unsure = {"m1": champion(235, 960), "m2": champion(238, 930), "m3": champion(242, 900)}
    assert "no pixel at or above tau" in drift(unsure, TAUS, HOW, seed=1).says
    assert "no pixel at or above tau" in drift(unsure, (0.9, 0.95), HOW, seed=1).says
    assert drift(unsure, (0.95, 0.9), HOW, seed=1).state == "alarm"
