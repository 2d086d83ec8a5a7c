from __future__ import annotations

import dataclasses

import pytest

from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.strategies import STRATEGIES
from mpamatch.errors import BadInput
from mpamatch.experiments.simulation.strategies import BY_CHANCE, NAMES, simulated_strategy

ABLATIONS = [name for name in NAMES if name.startswith("mpamatch-without-")]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_of_the_queue_picks_by_the_queue_s_own_policy(name: str) -> None:
    strategy = simulated_strategy(name)
    plain = RankingPolicy(strategy=strategy.picks_by, tau=0.9, planned_rounds=4)
    assert strategy.policy(tau=0.9, rounds=4) == plain
    assert strategy.picks_by == name
    assert strategy.driven_by_model == STRATEGIES[name].driven_by_model


def test_chance_is_offered_nothing_that_the_model_found() -> None:
    for name in BY_CHANCE:
        assert simulated_strategy(name).offer in ("boxes", "tiles")
        assert not simulated_strategy(name).driven_by_model
    assert not simulated_strategy("random").asks_model


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_the_whole_with_one_part_off(name: str) -> None:
    cut, whole = simulated_strategy(name), simulated_strategy("mpamatch")
    knobs = [dataclasses.asdict(one.policy(tau=0.95, rounds=4)) for one in (cut, whole)]
    different = {knob for knob in knobs[0] if knobs[0][knob] != knobs[1][knob]}
    if name.endswith("second-looks"):
        assert (cut.second_looks, different) == (False, set())
    else:
        assert cut.second_looks
        assert different
        words = {"spreading": "window", "classes": "class_share", "copies": "duplicate_cosine", "caps": "image_cap"}
        part = name.removeprefix("mpamatch-without-")
        assert any(words.get(part, part) in knob for knob in different)
    assert cut.part_of == "mpamatch"


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(BadInput, match="whole-tile-random"):
        simulated_strategy("mpamatch-without-luck")
