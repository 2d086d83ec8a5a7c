"""An experiment as data: arms, each a method with some knobs, and the arm that the others are compared with. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mpamatch.domain.recipe import PROFILES as RECIPE_PROFILES
from mpamatch.domain.recipe import Recipe
from mpamatch.domain.typed_knobs import parse_knobs
from mpamatch.errors import BadInput

# What holds for every cell: each labelled image is trained on, and no temperature is fitted on any of them.
ALL_LABELS_TRAIN: Mapping[str, Any] = {"holdout_share": 0.0}

# The long one, for an accelerator. Its length follows the data, see full_steps.
_FULL: Mapping[str, Any] = {"crop_px": 256, "reduction": 1.0, "strong_views": 2, "teacher_flips": 4}
_FULL_LEAST_STEPS, _FULL_EPOCHS = 2000, 60

PROFILES: tuple[str, ...] = (*RECIPE_PROFILES, "full")

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Arm:
    """One row of a table: a method and the knobs in which it differs.

    ``labelled_share`` labels that share of the train images instead of the experiment's number. ``baseline`` is the
    arm this one is compared with, where it is not the experiment's. ``may_lack``: it needs files that do not come
    with the product, and counts as not run where they are missing. ``noise_words`` of each prompt are replaced by
    everyday ones, other ones for each seed. ``seconds_of`` names an arm whose training time
    this one gets too, at the pace that the arm ``pace_of`` had.
    """

    name: str
    method: str
    knobs: Mapping[str, Any] = field(default_factory=dict)
    labelled_share: float | None = None
    baseline: str | None = None
    may_lack: bool = False
    noise_words: int = 0
    seconds_of: str | None = None
    pace_of: str | None = None


@dataclass(frozen=True)
class Experiment:
    """A question and its arms. ``scored`` False: only seconds and memory are of interest.

    ``rivals``: further pairs to compare, an arm and the one that it is meant to beat beside its baseline.
    """

    name: str
    question: str
    arms: tuple[Arm, ...]
    baseline: str
    scored: bool = True
    seeds: int = 5
    rivals: tuple[tuple[str, str], ...] = ()

    def arm(self, name: str) -> Arm:
        """The arm of that name. Raises BadInput."""
        for arm in self.arms:
            if arm.name == name:
                return arm
        names = ", ".join(arm.name for arm in self.arms)
        raise BadInput(f"arm {name!r}", f"{self.name} has no such arm", f"one of {names}")

    def baseline_of(self, arm: Arm) -> str:
        return arm.baseline or self.baseline

    @property
    def left_out(self) -> list[str]:
        """Baselines of arms that are none of its arms themselves: it was cut, and nothing is compared with them."""
        names = {arm.name for arm in self.arms}
        return sorted({self.baseline_of(arm) for arm in self.arms} - names)


def arm_recipe(arm: Arm, profile: str, *, encoder: str | None, knobs: Mapping[str, Any], train_images: int) -> Recipe:
    """The recipe of an arm's cells: the profile, then ``knobs`` for all arms, then the arm's own. Raises BadInput.

    ``train_images`` decides the length of profile ``full`` and nothing else.
    """
    base: dict[str, Any] = {**ALL_LABELS_TRAIN, **({} if encoder is None else {"encoder": encoder})}
    if profile == "full":
        base |= _FULL
    values = {**base, **knobs, **arm.knobs}
    recipe = Recipe.for_profile("medium" if profile == "full" else profile, arm.method, **values)
    if profile == "full" and "steps_cold" not in values:
        values["steps_cold"] = full_steps(train_images, recipe.unlabelled_batch)
        recipe = Recipe.for_profile("medium", arm.method, **values)
    return recipe


def full_steps(train_images: int, batch: int) -> int:
    """Steps of the profile ``full``: 60 rounds of the pool, at least 2000."""
    return max(_FULL_LEAST_STEPS, _FULL_EPOCHS * -(-train_images // batch))


def parse_arm(text: str) -> Arm:
    """An arm as it is typed: ``name:knob=value,knob=value``; ``method`` is a knob as well. Raises BadInput.

    >>> parse_arm("low:method=fixmatch,tau=0.8").knobs
    {'tau': 0.8}
    """
    name, _, rest = text.partition(":")
    if not _NAME.fullmatch(name):
        raise BadInput(f"arm {name!r}", "is no name for an arm", "use small letters, digits, dots and dashes")
    knobs = parse_knobs([pair for pair in rest.split(",") if pair], f"arm {name}:")
    method = knobs.pop("method", None)
    return Arm(name, str(method or Recipe().method), knobs)
