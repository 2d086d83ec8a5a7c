from __future__ import annotations

from dataclasses import replace

import pytest

from mpamatch.domain.factors import Scales
from mpamatch.domain.look_alikes import LookAlike
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.reasons import reasons
from mpamatch.domain.record import FirstRegion, RankedBy, Record

BY = RankedBy(RankingPolicy(), Scales(bald=10.0, distance=0.5), seed=1, round_number=2)
REGION = FirstRegion(
    area_px=1248.0,
    uncertainty=0.7,
    margin=0.1,
    impurity=0.1,
    disagreement=0.6,
    mean_confidence=0.41,
    predicted_class=1,
    clicks=10.0,
    distance=0.4,
)
RECORD = Record(BY, 5, "score", 0.5, 0.0, 1.0, 1, REGION, um_per_px=0.5)


def test_the_words_are_those_that_the_docs_promise() -> None:
    assert reasons(replace(RECORD, region=replace(REGION, disagreement=0.9))) == (
        "confidence 0.41 below 0.95 over 312 um2",
        "head and prototypes disagree",
        "unlike anything labelled",
    )


def test_what_looks_like_an_artefact_says_so_before_anything_else_but_a_note() -> None:
    sunk = replace(RECORD, like=LookAlike(42, 0.9712))
    assert reasons(sunk) == (
        "at the end: looks like tile 42, which was marked as an artefact (cosine 0.97)",
        *reasons(RECORD),
    )
    assert reasons(replace(sunk, note="as before"))[:2] == ("as before", reasons(sunk)[0])
    assert reasons(replace(sunk, region=None, regions=0, stratum="cold"))[0] == reasons(sunk)[0]


def test_the_largest_weighted_factor_comes_first() -> None:
    mixed = replace(REGION, uncertainty=0.2, impurity=0.9, disagreement=0.5, distance=0.5)
    assert reasons(replace(RECORD, region=mixed)) == (
        "unlike anything labelled",
        "several classes mixed",
        "head and prototypes disagree",
        "confidence 0.41 below 0.95 over 312 um2",
    )
    policy = replace(BY.policy, weight_impurity=2.0)
    heavy = replace(RECORD, region=mixed, ranked_by=replace(BY, policy=policy))
    assert reasons(heavy)[0] == "several classes mixed"


def test_a_small_factor_is_not_worth_a_word() -> None:
    plain = replace(REGION, impurity=0.2, disagreement=0.2, distance=0.1)
    assert reasons(replace(RECORD, region=plain)) == ("confidence 0.41 below 0.95 over 312 um2",)
    assert reasons(replace(RECORD, region=replace(plain, distance=None))) == (
        "confidence 0.41 below 0.95 over 312 um2",
    )


def test_where_the_scale_is_not_known_the_area_is_in_pixels() -> None:
    assert reasons(replace(RECORD, um_per_px=None))[0] == "confidence 0.41 below 0.95 over 1248 px"


def test_a_confident_region_on_which_the_prototypes_differ_is_not_called_below_tau() -> None:
    sure = replace(REGION, mean_confidence=0.98, uncertainty=0.05, disagreement=0.9, distance=None)
    assert reasons(replace(RECORD, region=sure)) == (
        "head and prototypes disagree",
        "confidence 0.98 over 312 um2",
    )


def test_why_a_confident_region_was_asked_for_is_told_first_however_little_it_weighs() -> None:
    sure = replace(REGION, mean_confidence=0.96, uncertainty=0.24, impurity=0.9, disagreement=0.32, distance=0.5)
    assert reasons(replace(RECORD, region=sure))[0] == "head and prototypes disagree"
    in_part = replace(sure, disagreement=0.2)
    assert reasons(replace(RECORD, region=in_part))[0] == "head and prototypes disagree in a part of it"
    assert "disagree" not in " ".join(reasons(replace(RECORD, region=replace(in_part, mean_confidence=0.94))))
    assert "disagree" not in " ".join(reasons(replace(RECORD, region=replace(sure, disagreement=0.05))))


def test_a_class_with_a_tau_of_its_own_is_held_to_that() -> None:
    by = replace(BY, policy=replace(BY.policy, taus=(0.95, 0.9, 0.95)))
    record = replace(RECORD, ranked_by=by)
    assert reasons(record)[0] == "confidence 0.41 below 0.90 over 312 um2"
    assert reasons(replace(record, region=replace(REGION, predicted_class=2)))[0].startswith(
        "confidence 0.41 below 0.95"
    )
    assert "below" not in " ".join(reasons(replace(record, region=replace(REGION, mean_confidence=0.92))))
    nothing = reasons(replace(record, region=None, regions=0))
    assert nothing == ("no region below 0.90 to 0.95: confident everywhere",)


def test_a_second_look_is_told_where_it_was_no_surer() -> None:
    assert "no surer at a second look" in reasons(replace(RECORD, region=replace(REGION, bald=0.06)))[0]
    assert "second look" not in " ".join(reasons(replace(RECORD, region=replace(REGION, bald=0.02))))


@pytest.mark.parametrize(
    ("stratum", "first"),
    [
        ("exploration", "drawn at random, to look where the model may be wrong without knowing"),
        ("audit", "audit tile: it judges the models, so nothing is drawn for you; label all of it"),
        ("cold", "no trained model yet, a spread over all cases: please label the whole tile"),
        ("score", "confidence 0.41 below 0.95 over 312 um2"),
    ],
)
def test_each_stratum_says_what_it_is(stratum: str, first: str) -> None:
    assert reasons(replace(RECORD, stratum=stratum))[0] == first
    noted = reasons(replace(RECORD, stratum=stratum, note="before all else"))
    where = "it comes now because of its most doubtful place: " if stratum == "score" else ""
    assert noted[:2] == ("before all else", where + first)


def test_what_is_asked_for_as_a_whole_says_that_its_figures_are_of_one_place() -> None:
    told = reasons(replace(RECORD, note="please go over the whole tile", regions=0, stratum="class", class_id=1))
    assert told[1] == f"it comes now because of its most doubtful place: {reasons(RECORD)[0]}"
    assert told[2:] == (*reasons(RECORD)[1:], "among the most doubtful of its class")


def test_a_pick_for_a_class_and_more_regions_are_told_at_the_end() -> None:
    told = reasons(replace(RECORD, stratum="class", class_id=1, regions=3))
    assert told[-2:] == ("among the most doubtful of its class", "2 more uncertain regions")
    assert reasons(replace(RECORD, regions=2))[-1] == "1 more uncertain region"


def test_a_tile_without_regions_says_so_and_an_order_without_figures_too() -> None:
    assert reasons(replace(RECORD, region=None, regions=0)) == ("no region below 0.95: confident everywhere",)
    old = replace(RECORD, region=None, regions=4)
    for stratum in ("score", "exploration"):
        assert reasons(replace(old, stratum=stratum, note="in the words of then")) == ("in the words of then",)
    assert reasons(old) == ("its figures were not kept",)
