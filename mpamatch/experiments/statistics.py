"""What may be said of a few paired runs: means, intervals of differences, counts of signs. Pure.

Differences are paired: same seed, same labelled images. Sources: Student's t for a mean of few values; the percentile
bootstrap of Efron and Tibshirani 1993, chapter 13, drawn over seeds and, within the same draw, over images.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """A mean of paired differences with its interval by Student's t (nan below two pairs), and the signs."""

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
    """The images of one unit (a seed) as one arm scored them: names, and confusions int64 (N, C, C), rows truth."""

    images: tuple[str, ...]
    confusions: NDArray[np.int64]


def summary(values: Sequence[float]) -> Summary:
    """Mean and spread; values that are nan are left out and not counted."""
    known = _known(values)
    n = len(known)
    mean = float(known.mean()) if n else float("nan")
    return Summary(n, mean, float(known.std(ddof=1)) if n > 1 else float("nan"))


def paired_difference(arm: Sequence[float], baseline: Sequence[float], confidence: float = CONFIDENCE) -> Difference:
    """``arm`` minus ``baseline``, value by value; a pair with a nan is left out.

    Raises BadInput when the two are not of one length.

    >>> paired_difference([2.0, 3.0], [1.0, 1.0]).mean
    1.5
    """
    if len(arm) != len(baseline):
        raise BadInput("paired values", f"{len(arm)} and {len(baseline)}", "give one pair for each seed")
    known = _known(np.asarray(arm, float) - np.asarray(baseline, float))
    spread = summary(list(known))
    half = float("nan")
    if spread.n > 1:
        half = float(stdtrit(spread.n - 1, (1 + confidence) / 2)) * spread.sd / float(np.sqrt(spread.n))
    signs = [int((np.sign(known) == sign).sum()) for sign in (1, -1, 0)]
    return Difference(spread.n, spread.mean, spread.sd, spread.mean - half, spread.mean + half, *signs)


def paired_bootstrap(
    arm: Sequence[ScoredSet],
    baseline: Sequence[ScoredSet],
    *,
    seed: int,
    draws: int = BOOTSTRAP_DRAWS,
    confidence: float = CONFIDENCE,
) -> tuple[float, float]:
    """An interval of the mean difference in mean Dice (pixels pooled), drawn over units and images.

    Each draw takes units with replacement and images with replacement, the same for both arms, pools their confusions
    and compares. Units that score the same images (seeds of one fold) see the same draw of them. Raises BadInput when
    the arms do not score the same images unit by unit; nan without any unit.
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
        differences[:, unit] = _pooled_dice(counts, first) - _pooled_dice(counts, second)
    units = rng.integers(0, len(arm), (draws, len(arm)))
    means = np.take_along_axis(differences, units, axis=1).mean(axis=1)
    low, high = np.nanquantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _image_counts(rng: np.random.Generator, draws: int, images: int) -> NDArray[np.int64]:
    """How often each draw takes each image, (draws, images)."""
    return rng.multinomial(images, np.full(images, 1 / images), size=draws).astype(np.int64)


def _pooled_dice(counts: NDArray[np.int64], scored: ScoredSet) -> NDArray[np.float64]:
    """Mean Dice over classes of each draw's pooled confusion, (draws,); absent classes are left out."""
    pooled = np.tensordot(counts, scored.confusions, axes=(1, 0)).astype(float)
    top = 2 * np.diagonal(pooled, axis1=1, axis2=2)
    bottom = pooled.sum(axis=1) + pooled.sum(axis=2)
    dice = np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
    known = (~np.isnan(dice)).sum(axis=1)
    return np.divide(np.nansum(dice, axis=1), known, out=np.full(len(dice), np.nan), where=known > 0)


def _known(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    array = np.asarray(values, float)
    return array[~np.isnan(array)]
