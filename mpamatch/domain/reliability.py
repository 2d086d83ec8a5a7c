"""Whether a model's confidence can be believed: how many of its pixels a person's label agrees with, bin by bin.

**Acceptance** of a set of pixels is the share where the label given later is the predicted class. Confidence is honest
where a bin's acceptance is its mean confidence (reliability diagram: Niculescu-Mizil and Caruana 2005). Intervals come
of a bootstrap over groups, or over tiles while there are fewer than four groups; none below ``least_units`` of them.
Figures are fractions in 0..1, and None where nothing was counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain import metrics
from mpamatch.domain.resampling import draw_weights, drawn_units, interval
from mpamatch.domain.tallies import (
    LEVELS,
    MASKED,
    PREDICTED,
    RIGHT,
    TileTally,
    confidence_sums,
    first_level,
    in_order,
    level_sums,
    passing,
)

Floats = NDArray[np.float64]
Bounds = tuple[float, float] | None

# Narrow where models put most of their pixels, and where tau is chosen.
EDGES: Final = (0.0, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True)
class Precision:
    """How intervals are made: ``confidence`` two-sided, from ``draws`` draws, when there are ``least_units``."""

    confidence: float = 0.90
    draws: int = 1000
    least_units: int = 6


@dataclass(frozen=True)
class Bin:
    """Pixels whose confidence lies from ``low`` to below ``high`` (the last bin holds 1 too).

    ``share``: of all counted pixels; ``dice``: of the class, or the mean over the classes, within the bin.
    """

    low: float
    high: float
    pixels: int
    share: float
    confidence: float | None
    acceptance: float | None
    bounds: Bounds
    dice: float | None


@dataclass(frozen=True)
class AtTau:
    """Pseudo-labels at a threshold: the share of pixels that pass, their acceptance, and the Dice among them.

    ``tau``: None for all classes together where they have different ones. Then a pixel passes by the tau of the class
    that it is predicted as, and the Dice of each class is among the pixels at or above its own.
    """

    tau: float | None
    passed: float | None
    acceptance: float | None
    bounds: Bounds
    dice: float | None


@dataclass(frozen=True)
class Reliability:
    """All classes (``class_id`` None) or the pixels predicted as one class, with what the figures rest on.

    ``ece``: expected calibration error over the bins. ``unit``: what was drawn, ``units`` how many hold such pixels.
    """

    class_id: int | None
    pixels: int
    tiles: int
    unit: Literal["group", "tile"]
    units: int
    bins: tuple[Bin, ...]
    at_tau: AtTau
    ece: float | None


@dataclass(frozen=True)
class _Drawn:
    """Tiles in order with what their draws need. ``counts``: int64 (T, 3, 256, C); ``weights``: (draws, T)."""

    unit: Literal["group", "tile"]
    names: list[str]
    counts: NDArray[np.int64]
    weights: Floats

    def units(self, held: NDArray[np.bool_]) -> int:
        """How many groups, or tiles, are among those that are held."""
        return len({name for name, one in zip(self.names, held, strict=True) if one})


def _draw(tiles: Sequence[TileTally], class_count: int, how: Precision, seed: int) -> _Drawn:
    ordered = in_order(tiles)
    unit, names = drawn_units([one.group for one in ordered])
    if not ordered:
        return _Drawn(unit, names, np.zeros((0, 3, LEVELS, class_count), np.int64), np.zeros((0, 0)))
    weights = draw_weights(names, how.draws, np.random.default_rng(seed))
    return _Drawn(unit, names, np.stack([one.counts for one in ordered]), weights)


def reliability(
    tiles: Sequence[TileTally], taus: Sequence[float], how: Precision, *, seed: int
) -> tuple[Reliability, ...]:
    """All classes together, then each class, at the tau that each has in ``taus``; the order of the tiles does not
    matter. Raises BadInput as `in_order`."""
    drawn = _draw(tiles, len(taus), how, seed)
    return tuple(_of_class(class_id, drawn, taus, how) for class_id in (None, *range(len(taus))))


def class_at_tau(
    tiles: Sequence[TileTally], class_count: int, class_id: int, tau: float, how: Precision, *, seed: int
) -> AtTau:
    """One class's pseudo-labels at another threshold, with the same draws as `reliability` makes."""
    drawn = _draw(tiles, class_count, how, seed)
    counts = drawn.counts[..., class_id : class_id + 1]
    units = drawn.units(counts[:, PREDICTED].sum(axis=(1, 2)) > 0)
    return _at_tau(counts, [tau], drawn.weights if units >= how.least_units else drawn.weights[:0], how)


def _of_class(class_id: int | None, drawn: _Drawn, taus: Sequence[float], how: Precision) -> Reliability:
    if class_id is None:
        counts = drawn.counts
    else:
        counts, taus = drawn.counts[..., class_id : class_id + 1], taus[class_id : class_id + 1]
    held = counts[:, PREDICTED].sum(axis=(1, 2)) > 0
    units = drawn.units(held)
    draws = drawn.weights if units >= how.least_units else drawn.weights[:0]
    starts = [first_level(edge) for edge in EDGES[:-1]]
    by_bin = level_sums(counts, starts)  # (T, 3, bins, C)
    confidence = np.add.reduceat(confidence_sums(counts.sum(axis=0)).sum(axis=1), starts)
    pixels = int(counts[:, PREDICTED].sum())
    bins = tuple(
        Bin(
            low=low,
            high=high,
            pixels=int(by_bin[:, PREDICTED, n].sum()),
            share=float(by_bin[:, PREDICTED, n].sum() / pixels) if pixels else 0.0,
            confidence=ratio(confidence[n], by_bin[:, PREDICTED, n].sum()),
            acceptance=ratio(by_bin[:, RIGHT, n].sum(), by_bin[:, PREDICTED, n].sum()),
            bounds=_bounds(by_bin[:, :, n], draws, how),
            dice=_dice(by_bin[:, :, n]),
        )
        for n, (low, high) in enumerate(pairwise(EDGES))
    )
    table = np.stack([by_bin[:, PREDICTED].sum(axis=(0, 2)), confidence, by_bin[:, RIGHT].sum(axis=(0, 2))])
    return Reliability(
        class_id=class_id,
        pixels=pixels,
        tiles=int(held.sum()),
        unit=drawn.unit,
        units=units,
        bins=bins,
        at_tau=_at_tau(counts, taus, draws, how),
        ece=metrics.ece(table.astype(np.float64)) if pixels else None,
    )


def _at_tau(counts: NDArray[np.int64], taus: Sequence[float], draws: Floats, how: Precision) -> AtTau:
    """Of pixels counted per tile, level and class, (T, 3, 256, C)."""
    passed = passing(counts, taus)
    return AtTau(
        tau=taus[0] if len(set(taus)) == 1 else None,
        passed=ratio(passed[:, PREDICTED].sum(), counts[:, PREDICTED].sum()),
        acceptance=ratio(passed[:, RIGHT].sum(), passed[:, PREDICTED].sum()),
        bounds=_bounds(passed, draws, how),
        dice=_dice(passed),
    )


def ratio(part: Any, whole: Any) -> float | None:
    """A share; None of nothing."""
    return float(part) / float(whole) if whole else None


def drawn_shares(weights: Floats, part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Sum over tiles of ``part`` by that of ``whole``, each (T,), in every draw; nan where a draw holds nothing."""
    top, bottom = weights @ part.astype(np.float64), weights @ whole.astype(np.float64)
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)


def _bounds(counts: NDArray[np.int64], draws: Floats, how: Precision) -> Bounds:
    """Of the acceptance of pixels counted per tile and class, (T, 3, C)."""
    if not len(draws):
        return None
    shares = drawn_shares(draws, counts[:, RIGHT].sum(axis=1), counts[:, PREDICTED].sum(axis=1))
    return interval(shares, how.confidence)


def _dice(counts: NDArray[np.int64]) -> float | None:
    """Mean over the classes that are predicted or masked among pixels counted per tile and class, (T, 3, C)."""
    total = counts.sum(axis=0)
    sides = total[PREDICTED] + total[MASKED]
    held = sides > 0
    return float((2 * total[RIGHT][held] / sides[held]).mean()) if held.any() else None
