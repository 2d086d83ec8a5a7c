from __future__ import annotations

from dataclasses import replace

import pytest

from mpamatch.domain.breakdown import breakdown
from mpamatch.domain.cost import CostModel
from mpamatch.domain.record import recompute
from tests.mpamatch.domain.test_record import BY, RECORD, REGION


def test_the_parts_and_the_discount_give_the_score() -> None:
    found = breakdown(RECORD)
    assert found is not None
    assert {part.name: (part.raw, part.weight) for part in found.parts} == {
        "uncertainty": (0.03, 0.4),
        "impurity": (0.3, 0.2),
        "disagreement": (0.1, 0.2),
        "novelty": (0.2, 0.2),
    }
    assert [part.given for part in found.parts] == pytest.approx([0.4 * 0.3, 0.2 * 0.3, 0.2 * 0.1, 0.2 * 0.4])
    assert found.score == pytest.approx(recompute(RECORD))
    assert found.support == pytest.approx(1000 / 1256)
    assert found.cost == pytest.approx(25 / 69)


def test_uncertainty_is_bald_where_somebody_looked_twice_and_entropy_elsewhere() -> None:
    looked, once = breakdown(RECORD), breakdown(replace(RECORD, region=replace(REGION, bald=None)))
    assert looked is not None
    assert once is not None
    assert (looked.part("uncertainty").figure, looked.part("uncertainty").raw) == ("bald", 0.03)
    assert (once.part("uncertainty").figure, once.part("uncertainty").raw) == ("entropy", 0.5)


def test_a_bald_that_told_nothing_apart_in_that_order_is_not_what_counted() -> None:
    scales = replace(BY.scales, bald=0.0)
    found = breakdown(replace(RECORD, region=replace(REGION, bald=0.0), ranked_by=replace(BY, scales=scales)))
    assert found is not None
    part = found.part("uncertainty")
    assert (part.figure, part.raw, part.factor) == ("entropy", 0.5, 0.5)


def test_what_a_label_was_expected_to_take_is_told_by_the_costs_of_that_order() -> None:
    cost = CostModel(seconds_fixed=10.0, seconds_per_click=2.0)
    found = breakdown(replace(RECORD, ranked_by=replace(BY, policy=replace(BY.policy, cost=cost))))
    assert found is not None
    assert (found.clicks, found.seconds) == (20.0, 50.0)
    assert found.cost == pytest.approx(50 / 130)


def test_a_figure_that_is_not_known_gives_nothing_and_no_region_has_no_parts() -> None:
    found = breakdown(replace(RECORD, region=replace(REGION, distance=None)))
    assert found is not None
    assert (found.part("novelty").raw, found.part("novelty").given) == (None, 0.0)
    assert breakdown(replace(RECORD, region=None)) is None
