"""Whether models grow surer while people agree with them less: the sign that they confirm themselves.

A semi-supervised model learns from its own pseudo-labels, so it can grow confident in its own mistakes (confirmation
bias: Arazo et al. 2020). Seen on tiles that people labelled without a suggestion before them, by several champions on
the same tiles: the straight line through mean confidence, and the one through the acceptance of pseudo-labels, over
the champions in their order. All draws are paired, so that what is hard about a tile cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.reliability import Bounds, Precision, drawn_shares, ratio
from mpamatch.domain.resampling import LEAST_GROUPS, draw_weights, interval
from mpamatch.domain.tallies import MASKED, PREDICTED, RIGHT, TileTally, confidence_sums, in_order, passing

LEAST_TILES = 12
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Standing:
    """One champion on the common tiles: mean confidence over all pixels, and its pseudo-labels' acceptance.

    ``passed``: the share of pixels at or above the tau of the class that they are predicted as; ``dice``: mean over the
    classes that are masked, of all pixels.
    """

    version: str
    confidence: float | None
    passed: float | None
    acceptance: float | None
    dice: float | None


@dataclass(frozen=True)
class Change:
    """From the first to the last champion along the straight line through all of them."""

    point: float
    bounds: Bounds


@dataclass(frozen=True)
class Drift:
    """``state``: ``alarm`` when confidence surely grew and acceptance surely fell; ``quiet``; or ``too early``."""

    state: Literal["alarm", "quiet", "too early"]
    says: str
    tiles: int
    groups: int
    standings: tuple[Standing, ...]
    confidence: Change | None = None
    acceptance: Change | None = None


def drift(champions: Mapping[str, Sequence[TileTally]], taus: Sequence[float], how: Precision, *, seed: int) -> Drift:
    """``champions``: tallies by version, in the order in which they served; only tiles that all of them saw count.
    ``taus``: of each class.

    Raises BadInput as `in_order`.
    """
    common = _common(champions)
    by_version = {v: [one for one in in_order(tiles) if one.tile_id in common] for v, tiles in champions.items()}
    groups = [one.group for one in next(iter(by_version.values()), [])]
    figures = {version: _per_tile(tiles, taus) for version, tiles in by_version.items() if tiles}
    standings = tuple(_standing(v, figures[v], by_version[v]) for v in figures)
    missing = _missing(standings, groups)
    if missing is not None:
        return Drift("too early", f"Too early to say: {missing}.", len(groups), len(set(groups)), standings)
    weights = draw_weights(groups, how.draws, np.random.default_rng(seed))
    confidence = _change(list(figures.values()), 1, 0, weights, how)
    acceptance = _change(list(figures.values()), 3, 2, weights, how)
    grew = confidence.bounds is not None and confidence.bounds[0] > 0
    fell = acceptance.bounds is not None and acceptance.bounds[1] < 0
    told = (
        f"over {len(standings)} champions confidence changed by {_words(confidence)} and acceptance by "
        f"{_words(acceptance)}"
    )
    says = (
        f"The models may be confirming themselves: {told}. Look at their confident mistakes, raise tau, or train "
        "without the unlabelled pool."
        if grew and fell
        else f"No sign that the models confirm themselves: {told}."
    )
    return Drift(
        "alarm" if grew and fell else "quiet", says, len(groups), len(set(groups)), standings, confidence, acceptance
    )


def _common(champions: Mapping[str, Sequence[TileTally]]) -> set[int]:
    seen = [{one.tile_id for one in tiles} for tiles in champions.values()]
    return set.intersection(*seen) if seen else set()


def _per_tile(tiles: Sequence[TileTally], taus: Sequence[float]) -> Floats:
    """Rows by tile, (5, T): pixels, summed confidence, pixels that pass, those of them that are right, right ones."""
    rows = [
        (
            one.counts[PREDICTED].sum(),
            confidence_sums(one.counts).sum(),
            passing(one.counts[PREDICTED], taus).sum(),
            passing(one.counts[RIGHT], taus).sum(),
            one.counts[RIGHT].sum(),
        )
        for one in tiles
    ]
    return np.array(rows, np.float64).T


def _standing(version: str, figures: Floats, tiles: Sequence[TileTally]) -> Standing:
    pixels, confidence, passing, accepted, _ = figures.sum(axis=1)
    by_class = np.sum([one.counts.sum(axis=1) for one in tiles], axis=0)  # (3, C)
    masked = by_class[MASKED] > 0
    dice = 2 * by_class[RIGHT][masked] / (by_class[PREDICTED] + by_class[MASKED])[masked]
    return Standing(
        version=version,
        confidence=ratio(confidence, pixels),
        passed=ratio(passing, pixels),
        acceptance=ratio(accepted, passing),
        dice=float(dice.mean()) if len(dice) else None,
    )


def _missing(standings: Sequence[Standing], groups: Sequence[str]) -> str | None:
    """What is not there yet, in words; None when there is enough."""
    if len(standings) < 2:
        return "it takes two champions that saw the same audit tiles"
    if len(groups) < LEAST_TILES or len(set(groups)) < LEAST_GROUPS:
        return (
            f"{len(groups)} audit tiles of {len(set(groups))} groups are labelled, "
            f"{LEAST_TILES} of {LEAST_GROUPS} are needed"
        )
    if any(one.acceptance is None for one in standings):
        return "one of the champions has no pixel at or above tau"
    return None


def _change(figures: Sequence[Floats], part: int, whole: int, weights: Floats, how: Precision) -> Change:
    """Of the share ``part`` by ``whole`` along the line through the champions."""
    point = np.array([[one[part].sum() / one[whole].sum()] for one in figures])
    drawn = np.stack([drawn_shares(weights, one[part], one[whole]) for one in figures])
    return Change(float(_rise(point)[0]), interval(_rise(drawn), how.confidence))


def _rise(values: Floats) -> Floats:
    """From the first to the last row along the least-squares line through them, by column, (champions, D) -> (D,)."""
    places = np.arange(len(values), dtype=np.float64)
    centred = places - places.mean()
    return (centred @ values) / (centred @ centred) * (len(values) - 1)


def _words(change: Change) -> str:
    if change.bounds is None:
        return f"{change.point:+.3f}"
    return f"{change.point:+.3f} ({change.bounds[0]:+.3f} to {change.bounds[1]:+.3f})"
