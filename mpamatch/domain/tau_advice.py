"""Which tau each class would need, from tiles that the model never learnt from: the lowest one whose pseudo-labels are
right often enough.

Advice and nothing else: nothing here sets a threshold. Fit it on labelled train tiles that the model's runs kept back,
never on audit tiles, which judge what it says.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.reliability import Bounds, Precision, drawn_shares, ratio
from mpamatch.domain.resampling import draw_weights, drawn_units, interval
from mpamatch.domain.tallies import LEVELS, PREDICTED, RIGHT, TileTally, first_level, in_order, level_sums
from mpamatch.errors import BadInput

# Every hundredth, and one above: finer than the data ever tell apart.
TAUS: Final = (*(round(0.5 + n / 100, 2) for n in range(50)), 0.995)


@dataclass(frozen=True)
class TauAdvice:
    """What is suggested for one class. ``tau`` None: there are too few labels, or no threshold is good enough.

    ``bounds``: the interval of the suggested tau over draws; its upper end is None where more than a part of the draws
    found none good enough. ``acceptance`` (with its own bounds) and ``passed`` are those at ``tau``, or at the highest
    threshold where none is good enough. ``says`` is the whole in a sentence.
    """

    class_id: int
    tau: float | None
    bounds: tuple[float, float | None] | None
    acceptance: float | None
    acceptance_bounds: Bounds
    passed: float | None
    tiles: int
    units: int
    says: str


def advise_taus(
    tiles: Sequence[TileTally], class_names: Sequence[str], target: float, how: Precision, *, seed: int
) -> tuple[TauAdvice, ...]:
    """The lowest tau of each class at which at least ``target`` of its pseudo-labels are right.

    A class that is predicted in fewer than ``how.least_units`` groups (tiles, while there are fewer than four groups)
    gets none. Raises BadInput for a target outside 0..1, or tallies as `in_order` refuses them.
    """
    if not 0 < target < 1:
        raise BadInput("precision", f"{target} is not between 0 and 1", "say 0.95 for 95 of 100 pixels right")
    ordered = in_order(tiles)
    unit, names = drawn_units([one.group for one in ordered])
    shape = (0, 3, LEVELS, len(class_names))
    counts = np.stack([one.counts for one in ordered]) if ordered else np.zeros(shape, np.int64)
    weights = draw_weights(names, how.draws, np.random.default_rng(seed)) if ordered else np.zeros((0, 0))
    # From each threshold up, (T, 3, taus, C).
    above = level_sums(counts, [first_level(t) for t in TAUS])[:, :, ::-1].cumsum(axis=2)[:, :, ::-1]
    total = counts[:, PREDICTED].sum(axis=1)
    return tuple(
        _advice(c, name, total[:, c], above[..., c], names, unit, weights, target, how)
        for c, name in enumerate(class_names)
    )


def _advice(
    class_id: int,
    name: str,
    total: NDArray[np.int64],
    above: NDArray[np.int64],
    names: Sequence[str],
    unit: str,
    weights: NDArray[np.float64],
    target: float,
    how: Precision,
) -> TauAdvice:
    """``total`` (T,) pixels predicted as the class; ``above`` (T, 3, taus) those from each threshold up."""
    tiles = int((total > 0).sum())
    units = len({one for one, n in zip(names, total, strict=True) if n})
    if units < how.least_units:
        there = f"{units} {unit}{'' if units == 1 else 's'} held back from training"
        says = f"{name}: not enough labels: predicted in {there}, {how.least_units} are needed"
        return TauAdvice(class_id, None, None, None, None, None, tiles, units, says)
    passing, right = above[:, PREDICTED].sum(axis=0), above[:, RIGHT].sum(axis=0)
    chosen = _lowest((right / np.maximum(passing, 1))[None], (passing > 0)[None], target)[0]
    shares = np.stack([drawn_shares(weights, above[:, RIGHT, n], above[:, PREDICTED, n]) for n in range(len(TAUS))], 1)
    bounds = _tau_bounds(_lowest(np.nan_to_num(shares, nan=-1.0), np.isfinite(shares), target), how.confidence)
    at = min(chosen, int(np.flatnonzero(passing)[-1]) if passing.any() else 0)
    acceptance = ratio(right[at], passing[at])
    tau = TAUS[chosen] if chosen < len(TAUS) else None
    if acceptance is None:
        says = f"{name}: no pixel reaches confidence {TAUS[0]:g}"
    elif tau is None:
        says = f"{name}: no threshold is good enough: from {TAUS[at]:g} up {acceptance:.1%} are right"
    else:
        high = "none" if bounds[1] is None else f"{bounds[1]:g}"
        says = f"{name}: tau {tau:g} ({bounds[0]:g} to {high}), where {acceptance:.1%} are right"
    return TauAdvice(
        class_id=class_id,
        tau=tau,
        bounds=bounds,
        acceptance=acceptance,
        acceptance_bounds=interval(shares[:, at], how.confidence),
        passed=ratio(passing[at], total.sum()),
        tiles=tiles,
        units=units,
        says=says,
    )


def _lowest(shares: NDArray[np.float64], held: NDArray[np.bool_], target: float) -> NDArray[np.intp]:
    """The first threshold that is good enough, by row; the number of thresholds where none is."""
    good = held & (shares >= target)
    return np.where(good.any(axis=1), good.argmax(axis=1), shares.shape[1])


def _tau_bounds(chosen: NDArray[np.intp], confidence: float) -> tuple[float, float | None]:
    low, high = np.quantile(chosen, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf").astype(int)
    return TAUS[min(low, len(TAUS) - 1)], TAUS[high] if high < len(TAUS) else None
