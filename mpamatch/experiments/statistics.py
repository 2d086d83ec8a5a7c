"""What may be said of a few paired runs: means, intervals of differences, counts of signs. Pure.

Differences are paired: same seed, same labelled images. What is independent is a seed: its folds train on images that
they share, so that they are averaged before anything is said. Sources: Student's t for a mean of few values; the
percentile bootstrap of Efron and Tibshirani 1993, chapter 13, drawn over seeds and, within the same draw, over images.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from mpamatch.errors import BadInput

CONFIDENCE = 0.95
BOOTSTRAP_DRAWS = 2000


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation (n - 1) of n values; nan where too few are there."""

    n: int
    mean: float
    sd: float


@dataclass(frozen=True)
class Difference:
    """A mean of n paired differences with its interval by Student's t (nan below two), and their signs.

    Each is that of one seed; see :func:`paired_difference`.
    """

    n: int
    mean: float
    sd: float
    low: float
    high: float
    up: int
    down: int
    equal: int


@dataclass(frozen=True)
class ScoredSet:
    """The images of one unit (a seed, or a fold of it) as one arm scored them: names, and confusions int64 (N, C, C),
    rows truth."""

    images: tuple[str, ...]
    confusions: NDArray[np.int64]


@dataclass(frozen=True)
class ScoredCurve:
    """The images of one unit as one arm scored them at R points of a curve, ``at`` (R,) ascending on an axis that ends
    at ``end`` for all arms; confusions int64 (R, N, C, C)."""

    images: tuple[str, ...]
    confusions: NDArray[np.int64]
    at: NDArray[np.float64]
    end: float


def summary(values: Sequence[float]) -> Summary:
    """Mean and spread; values that are nan are left out and not counted."""
    known = _known(values)
    n = len(known)
    mean = float(known.mean()) if n else float("nan")
    return Summary(n, mean, float(known.std(ddof=1)) if n > 1 else float("nan"))


def paired_difference(
    arm: Sequence[float],
    baseline: Sequence[float],
    confidence: float = CONFIDENCE,
    *,
    groups: Sequence[Hashable] | None = None,
) -> Difference:
    """``arm`` minus ``baseline``, value by value; a pair with a nan is left out.

    ``groups`` names the group (the seed) of each pair: the pairs of one are averaged and count once. Without it each
    pair is its own. Raises BadInput when the sequences are not of one length.

    >>> paired_difference([2.0, 3.0], [1.0, 1.0]).mean
    1.5
    >>> paired_difference([2.0, 3.0, 5.0], [1.0, 1.0, 1.0], groups=[0, 0, 1]).mean
    2.75
    """
    owners = range(len(arm)) if groups is None else groups
    if not len(arm) == len(baseline) == len(owners):
        lengths = f"{len(arm)}, {len(baseline)} and {len(owners)} of groups"
        raise BadInput("paired values", lengths, "give one pair, and its group, for each unit")
    differences = np.asarray(arm, float) - np.asarray(baseline, float)
    means = [summary(list(differences[places])).mean for places in _places_of(owners)]
    known = _known(means)
    spread = summary(list(known))
    half = float("nan")
    if spread.n > 1:
        half = float(stdtrit(spread.n - 1, (1 + confidence) / 2)) * spread.sd / float(np.sqrt(spread.n))
    signs = [int((np.sign(known) == sign).sum()) for sign in (1, -1, 0)]
    return Difference(spread.n, spread.mean, spread.sd, spread.mean - half, spread.mean + half, *signs)


def paired_bootstrap(
    arm: Sequence[ScoredSet | ScoredCurve],
    baseline: Sequence[ScoredSet | ScoredCurve],
    *,
    seed: int,
    draws: int = BOOTSTRAP_DRAWS,
    confidence: float = CONFIDENCE,
    groups: Sequence[Hashable] | None = None,
) -> tuple[float, float]:
    """An interval of the mean difference in mean Dice (pixels pooled), drawn over groups and images; of curves, in the
    mean over the curve.

    ``groups`` names the group (the seed) of each unit, whose units (folds) are averaged; without it each unit is its
    own. Each draw takes groups with replacement and, in each of their units, images with replacement, the same for both
    arms, pools their confusions and compares. Units that score the same images (a fold in several seeds) see the same
    draw of them. Raises BadInput when the arms do not score the same images unit by unit; nan without any unit.
    """
    if [one.images for one in arm] != [one.images for one in baseline]:
        raise BadInput("paired bootstrap", "the two arms scored other images", "compare arms of one protocol")
    if not arm:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    differences = np.empty((draws, len(arm)))
    drawn: dict[tuple[str, ...], NDArray[np.int64]] = {}
    for unit, (first, second) in enumerate(zip(arm, baseline, strict=True)):
        if first.images not in drawn:
            drawn[first.images] = _image_counts(rng, draws, len(first.images))
        counts = drawn[first.images]
        differences[:, unit] = _value(counts, first) - _value(counts, second)
    places = _places_of(range(len(arm)) if groups is None else groups)
    of_groups = np.stack([differences[:, units].mean(axis=1) for units in places], axis=1)
    taken = rng.integers(0, len(places), (draws, len(places)))
    means = np.take_along_axis(of_groups, taken, axis=1).mean(axis=1)
    low, high = np.nanquantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _places_of(groups: Sequence[Hashable]) -> list[list[int]]:
    """The places of each group's members, groups in the order of their first."""
    places: dict[Hashable, list[int]] = {}
    for place, group in enumerate(groups):
        places.setdefault(group, []).append(place)
    return list(places.values())


def mean_over_curve(at: NDArray[np.float64], values: NDArray[np.float64], end: float) -> NDArray[np.float64]:
    """The area under straight lines through points, from the first to ``end``, over that length: a mean value.

    ``at`` (R,) ascends, ``values`` are (..., R), the result (...). Of points at one place the last counts; after the
    last point the line goes on level. Where the length is nothing it is the first value.

    >>> mean_over_curve(np.array([0.0, 2.0]), np.array([0.0, 1.0]), 2.0).item()
    0.5
    """
    at, values = _last_at_each_place(at, values)
    if end <= at[0]:
        return np.asarray(values[..., 0])
    inside = at < end
    heights = np.concatenate([values[..., inside], value_on_curve(at, values, end)[..., None]], axis=-1)
    return np.asarray(np.trapezoid(heights, np.append(at[inside], end), axis=-1) / (end - at[0]))


def value_on_curve(at: NDArray[np.float64], values: NDArray[np.float64], place: float) -> NDArray[np.float64]:
    """What straight lines through points (..., R) say at a place; level before the first and after the last.

    Of points at one place the last counts.
    """
    at, values = _last_at_each_place(at, values)
    after = int(np.searchsorted(at, place, side="right"))
    if after in (0, len(at)):
        return np.asarray(values[..., max(after - 1, 0)])
    share = (place - at[after - 1]) / (at[after] - at[after - 1])
    return np.asarray(values[..., after - 1] * (1 - share) + values[..., after] * share)


def _last_at_each_place(
    at: NDArray[np.float64], values: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    kept = np.append(np.diff(at) > 0, True)
    return at[kept], values[..., kept]


def _value(counts: NDArray[np.int64], scored: ScoredSet | ScoredCurve) -> NDArray[np.float64]:
    if isinstance(scored, ScoredSet):
        return _pooled_dice(counts, scored.confusions)
    points = np.stack([_pooled_dice(counts, confusions) for confusions in scored.confusions], axis=-1)
    return mean_over_curve(scored.at, points, scored.end)


def _image_counts(rng: np.random.Generator, draws: int, images: int) -> NDArray[np.int64]:
    """How often each draw takes each image, (draws, images)."""
    return rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.int64)


def _pooled_dice(counts: NDArray[np.int64], confusions: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean Dice over classes of each draw's pooled confusion, (draws,); absent classes are left out."""
    pooled = np.tensordot(counts, confusions, axes=(1, 0)).astype(float)
    top = 2 * np.diagonal(pooled, axis1=1, axis2=2)
    bottom = pooled.sum(axis=1) + pooled.sum(axis=2)
    dice = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
    known = (~np.isnan(dice)).sum(axis=1)
    return np.divide(np.nansum(dice, axis=1), known, out=np.full(len(dice), np.nan), where=known > 0)


def _known(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.asarray(values, float)
    return array[~np.isnan(array)]
