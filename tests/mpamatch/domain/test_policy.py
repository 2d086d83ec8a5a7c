from __future__ import annotations

import pytest

from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.domain.strategy_names import SIMULATION_ONLY, STRATEGY_NAMES
from mpamatch.errors import BadInput


@pytest.mark.parametrize("name", STRATEGY_NAMES)
def test_a_queue_takes_every_strategy_that_needs_no_truth(name: str) -> None:
    if name in SIMULATION_ONLY:
        with pytest.raises(BadInput, match="unknown to a queue"):
            Policy(strategy=name)
    else:
        assert Policy(strategy=name).ranking_with(audit_tiles=0, audit_groups=0).strategy == name


def test_by_worth_per_minute_the_cost_divides_in_full() -> None:
    by_score, by_minute = (
        Policy(rank_by=by).ranking_with(audit_tiles=0, audit_groups=0) for by in ("score", "worth-per-minute")
    )
    assert (by_score.cost_floor, by_score.cost_exponent) == (0.25, 0.5)
    assert (by_minute.cost_floor, by_minute.cost_exponent) == (0.0, 1.0)
    with pytest.raises(BadInput, match="rank_by"):
        Policy(rank_by="luck")


def test_the_audit_share_halves_once_the_gate_has_what_it_needs() -> None:
    assert Policy().ranking_with(audit_tiles=11, audit_groups=9).audit_share == 0.2
    assert Policy().ranking_with(audit_tiles=12, audit_groups=4).audit_share == 0.1


def test_a_class_has_its_own_tau_and_the_others_have_the_common_one() -> None:
    classes = ClassSet.from_names(["background", "gland", "stroma"])
    policy = Policy(tau=0.9, tau_by_class={"stroma": 0.8})
    assert policy.taus(classes) == (0.9, 0.9, 0.8)
    assert Policy(tau=0.9).taus(classes) == ()
    ranking = policy.ranking_with(audit_tiles=0, audit_groups=0, taus=policy.taus(classes))
    assert [ranking.tau_of(c.id) for c in classes.classes] == [0.9, 0.9, 0.8]
    assert Policy(tau=0.9).ranking_with(audit_tiles=0, audit_groups=0).tau_of(2) == 0.9
    with pytest.raises(BadInput, match="known classes: background"):
        Policy(tau_by_class={"glnd": 0.9}).taus(classes)
    for wrong in (0.4, 1.0, float("nan")):
        with pytest.raises(BadInput, match="tau of 'gland'"):
            Policy(tau_by_class={"gland": wrong})


def test_a_policy_comes_back_from_json_and_a_slip_is_noticed() -> None:
    policy = Policy(strategy="entropy", rank_by="worth-per-minute", tau_by_class={"gland": 0.9})
    assert Policy.from_json(policy.to_json()) == policy
    with pytest.raises(BadInput, match="stratagy"):
        Policy.from_json({"stratagy": "entropy"})


def test_a_method_of_training_is_a_known_one_and_none_is_the_shipped_one() -> None:
    assert Policy().train_method is None
    assert Policy.from_json(Policy(train_method="unimatch-ema").to_json()).train_method == "unimatch-ema"
    with pytest.raises(BadInput, match="training method 'unimatch-xl': is unknown; one of supervised, "):
        Policy(train_method="unimatch-xl")


@pytest.mark.parametrize("cosine", [0.0, -0.5, 1.01])
def test_how_much_alike_an_artefact_has_to_be_is_a_cosine_above_zero(cosine: float) -> None:
    with pytest.raises(BadInput, match="artefact_cosine"):
        Policy(artefact_cosine=cosine)
    assert Policy(artefact_cosine=0.8).ranking_with(audit_tiles=0, audit_groups=0).artefact_cosine == 0.8
