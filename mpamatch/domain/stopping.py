"""Whether more labels are worth it: what the next head is expected to add, with an interval, in one plain sentence.

Each verdict compared a candidate with a champion on the same audit masks; between the two lie the labels that only the
candidate saw. Over a few doublings of their number, Dice follows about a straight line over its logarithm (that is
what a learning curve's power law looks like there), so each verdict is a sample of its slope:

    difference = slope * ln(labelled after / labelled before) + noise

and the next head adds slope * ln(1 + head / labelled). A curve that flattens faster is promised too much: it errs
towards going on. Verdicts that kept a candidate out count as those that let one in: leaving them out would make every
label look useful.

The interval is the wider of two: the scatter of the verdicts around the line by Student's t, and their own bounds as if
all erred to the same side, since they share their audit tiles. Either alone covers too little: the first where patients
differ in what they gain, the second where training is noisy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.special import ndtri, stdtrit

LEAST_VERDICTS: Final = 3
LEAST_WORTH: Final = 0.005


@dataclass(frozen=True)
class Step:
    """One verdict: labelled train tiles of the champion's run and of the candidate's, and the difference of mean Dice
    with its two bounds, each one-sided at ``confidence``; None where too few audit tiles gave none."""

    version: str
    labelled_before: int
    labelled_after: int
    difference: float
    lower: float | None
    upper: float | None
    confidence: float = 0.90

    @property
    def usable(self) -> bool:
        return self.lower is not None and self.upper is not None and 0 < self.labelled_before < self.labelled_after


@dataclass(frozen=True)
class Gain:
    """Dice that some more labels are expected to add, with a two-sided interval."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class Advice:
    """``next_head`` and ``per_100_clicks`` are None where it is too early, or where clicks are not known.

    ``verdict``: ``go on``, ``consider stopping``, ``unclear`` or ``too early``.
    """

    verdict: Literal["go on", "consider stopping", "unclear", "too early"]
    says: str
    usable: int
    next_head: Gain | None = None
    per_100_clicks: Gain | None = None


@dataclass(frozen=True)
class Next:
    """What would come: tiles of the next head, labelled train tiles now, clicks of a tile (None where unknown).

    ``worth``: the Dice below which a head is not worth its labels; the gate's margin is a good choice.
    """

    head_tiles: int
    labelled: int
    clicks_per_tile: float | None
    worth: float


def advise(steps: Sequence[Step], following: Next, *, confidence: float = 0.90) -> Advice:
    """What the verdicts so far say of the next head. The order of the steps does not matter."""
    usable = [one for one in steps if one.usable]
    if following.head_tiles < 1 or following.labelled < 1:
        return Advice("too early", "Too early to say: nothing is labelled yet, or nothing waits.", len(usable))
    if len(usable) < LEAST_VERDICTS:
        count = len(usable)
        there = (
            f"{count} verdict{'' if count == 1 else 's'} with bounds on a model with more labels than the one before"
        )
        return Advice("too early", f"Too early to say: {there}, {LEAST_VERDICTS} are needed.", count)
    slope, reach = _slope(usable, confidence)

    def gain(tiles: float) -> Gain:
        run = math.log1p(tiles / following.labelled)
        return Gain(slope * run, (slope - reach) * run, (slope + reach) * run)

    head = gain(following.head_tiles)
    per_100 = gain(100 / following.clicks_per_tile) if following.clicks_per_tile else None
    worth = max(following.worth, LEAST_WORTH)
    verdict, says = _sentence(head, following.head_tiles, worth)
    return Advice(verdict, says, len(usable), head, per_100)


def _slope(steps: Sequence[Step], confidence: float) -> tuple[float, float]:
    """The slope through the origin, and how far its interval reaches to either side."""
    x = np.array([math.log(one.labelled_after / one.labelled_before) for one in steps])
    y = np.array([one.difference for one in steps])
    slope = float(x @ y / (x @ x))
    scatter = math.sqrt(((y - slope * x) ** 2).sum() / (len(x) - 1) / (x @ x))
    shared = float(np.array([_sd(one) for one in steps]) @ x / (x @ x))
    side = (1 + confidence) / 2
    return slope, max(float(stdtrit(len(x) - 1, side)) * scatter, float(ndtri(side)) * shared)


def _sd(step: Step) -> float:
    """A verdict's own standard error, from the distance of its bounds."""
    assert step.lower is not None
    assert step.upper is not None
    return (step.upper - step.lower) / (2 * float(ndtri(step.confidence)))


def _sentence(head: Gain, tiles: int, worth: float) -> tuple[Literal["go on", "consider stopping", "unclear"], str]:
    told = f"{head.expected:.3f} Dice ({head.low:.3f} to {head.high:.3f})"
    of = f"the next head of {tiles} tile{'' if tiles == 1 else 's'}"
    if head.high < worth:
        return "consider stopping", f"{of.capitalize()} is expected to add {told}: consider stopping."
    if head.low > 0 and head.expected >= worth:
        return "go on", f"Go on: {of} is expected to add {told}."
    return "unclear", f"Not clear yet: {of} may add {told}; more verdicts will tell."


@dataclass(frozen=True)
class Share:
    """``part`` of ``whole`` with the interval of Wilson (1927); the figures are None of nothing."""

    part: int
    whole: int
    share: float | None
    low: float | None
    high: float | None


def share_of(part: int, whole: int, *, confidence: float = 0.90) -> Share:
    """A share of few with its interval.

    >>> share_of(0, 0).share is None, round(share_of(5, 10).low, 3), round(share_of(5, 10).high, 3)
    (True, 0.269, 0.731)
    """
    if whole == 0:
        return Share(part, whole, None, None, None)
    z = float(ndtri((1 + confidence) / 2))
    p, middle = part / whole, 1 + z * z / whole
    half = z * math.sqrt(p * (1 - p) / whole + z * z / (4 * whole * whole)) / middle
    centre = (p + z * z / (2 * whole)) / middle
    return Share(part, whole, p, 0.0 if part == 0 else centre - half, 1.0 if part == whole else centre + half)
