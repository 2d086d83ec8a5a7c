from collections.abc import Mapping
from typing import Any

import pytest

from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput
from mpamatch.experiments.arms import PROFILES, Arm, Experiment, arm_recipe, full_steps, parse_arm
from mpamatch.experiments.catalogue import DEFAULT_TAU, EXPERIMENTS, FREE, find_experiment
from mpamatch.experiments.results import comparisons


def recipe(arm: Arm, profile: str = "small", **knobs: Any) -> Recipe:
    return arm_recipe(arm, profile, encoder=None, knobs=knobs, train_images=34)


def likeness(arm: Arm) -> Mapping[str, Any]:
    return {**recipe(arm).to_json(), "share": arm.labelled_share, "noise": arm.noise_words, "seconds": arm.seconds_of}


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=lambda one: one.name)
class TestEachExperiment:
    def test_its_arms_are_recipes_and_no_two_are_alike(self, experiment: Experiment) -> None:
        seen = [likeness(arm) for arm in experiment.arms]
        assert all(seen.count(one) == 1 for one in seen)
        assert len({arm.name for arm in experiment.arms}) == len(experiment.arms)

    def test_its_arms_are_recipes_in_every_profile(self, experiment: Experiment) -> None:
        for profile in PROFILES:
            assert {recipe(arm, profile).method for arm in experiment.arms} <= {a.method for a in experiment.arms}

    def test_every_arm_is_compared_with_one_that_is_there(self, experiment: Experiment) -> None:
        for arm in experiment.arms:
            assert not experiment.arm(experiment.baseline_of(arm)).may_lack
            for need in (arm.seconds_of, arm.pace_of):
                assert need is None or experiment.arm(need).seconds_of is None
        for pair in experiment.rivals:
            assert {experiment.arm(name).name for name in pair} == set(pair)

    def test_every_arm_differs_from_its_baseline_where_it_says_so(self, experiment: Experiment) -> None:
        for arm in experiment.arms:
            for name, value in arm.knobs.items():
                assert recipe(arm).to_json()[name] == value


def test_the_threshold_starts_from_the_recipes_own() -> None:
    baseline = EXPERIMENTS["threshold"].arm(EXPERIMENTS["threshold"].baseline)
    assert recipe(baseline).tau == DEFAULT_TAU


def test_an_arms_own_knob_wins_over_one_for_all() -> None:
    arm = EXPERIMENTS["threshold"].arm("tau-0.90")
    found = recipe(arm, tau=0.5, steps_cold=7)
    assert (found.tau, found.steps_cold) == (0.90, 7)


def test_every_labelled_image_is_trained_on_unless_it_is_asked_otherwise() -> None:
    arm = EXPERIMENTS["ladder"].arm("supervised")
    assert recipe(arm).holdout_share == 0
    assert recipe(arm, holdout_share=0.2).holdout_share == 0.2


def test_the_full_profile_is_as_long_as_its_data_ask() -> None:
    assert full_steps(34, 4) == 2000
    assert full_steps(1000, 4) == 15_000
    arm = EXPERIMENTS["ladder"].arm("mpamatch")
    long = arm_recipe(arm, "full", encoder=None, knobs={}, train_images=1000)
    assert (long.steps_cold, long.crop_px, long.reduction_for(2000)) == (15_000, 256, 1.0)
    assert arm_recipe(arm, "full", encoder=None, knobs={"steps_cold": 9}, train_images=1000).steps_cold == 9


def test_an_arm_is_read_as_it_is_typed() -> None:
    found = parse_arm("low:method=fixmatch,tau=0.8,text=none")
    assert found == Arm("low", "fixmatch", {"tau": 0.8, "text": "none"})
    assert parse_arm("plain").method == Recipe().method


@pytest.mark.parametrize("text", ["", ":tau=1", "Big Name:tau=1", "a/b", "low:tau"])
def test_what_is_no_arm_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="arm"):
        parse_arm(text)


def test_arms_by_hand_are_for_the_free_experiment_alone() -> None:
    arms = (parse_arm("a:tau=0.8"), parse_arm("b:tau=0.9"))
    assert find_experiment(FREE, arms).baseline == "a"
    for name, given in ((FREE, ()), (FREE, (arms[0], arms[0])), ("ladder", arms), ("nothing", ())):
        with pytest.raises(BadInput):
            find_experiment(name, given)


def test_an_experiment_can_be_cut_to_some_arms_but_not_to_half_a_comparison_in_time() -> None:
    found = find_experiment("ladder", only=("cps", "supervised"))
    assert [arm.name for arm in found.arms] == ["supervised", "cps"]
    assert comparisons(found) == [("cps", "supervised", "steps")]
    with pytest.raises(BadInput, match="no such arm"):
        find_experiment("ladder", only=("cbs",))
    with pytest.raises(BadInput, match="needs mpamatch and supervised"):
        find_experiment("ladder", only=("supervised", "supervised-equal-seconds"))


def test_the_full_method_is_compared_with_labels_alone_and_with_what_it_builds_on() -> None:
    pairs = comparisons(find_experiment("ladder", only=("supervised", "unimatch-ema", "mpamatch")))
    assert [pair for pair in pairs if pair[0] == "mpamatch"] == [
        ("mpamatch", "supervised", "steps"),
        ("mpamatch", "unimatch-ema", "steps"),
    ]
