"""How much two people's labels of the same tile agree, where both looked: Dice of their masks, summed over tiles.

Two people who saw the same suggestion agree more than two who saw none: read agreement on audit tiles first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain import metrics
from mpamatch.domain.classes import ABSTAIN, IGNORE
from mpamatch.domain.reliability import Bounds, Precision
from mpamatch.domain.resampling import draw_weights, drawn_units, interval
from mpamatch.errors import BadInput


@dataclass(frozen=True)
class Pair:
    """Two people's labels of one tile: pixels by the first one's class (rows) and the second one's, int64 (C, C).

    ``blind``: nothing had been suggested to them.
    """

    tile_id: int
    group: str
    people: tuple[str, str]
    counts: NDArray[np.int64]
    blind: bool


@dataclass(frozen=True)
class Agreement:
    """Two people (None: all pairs together). ``dice``: mean over classes, background included, of all their tiles.

    ``bounds``: over groups, or tiles; None for too few of them. ``lowest``: their tile of least Dice, and that Dice.
    """

    people: tuple[str, str] | None
    tiles: int
    blind_tiles: int
    pixels: int
    dice: float | None
    bounds: Bounds
    lowest: tuple[int, float] | None


def compare(first: NDArray[np.uint8], second: NDArray[np.uint8], class_count: int) -> NDArray[np.int64]:
    """Pixels where both say a class, int64 (C, C). Raises BadInput for different shapes or unknown ids."""
    if first.shape != second.shape:
        raise BadInput("masks", f"of {first.shape} and {second.shape} px", "compare labels of one tile")
    both = (first < ABSTAIN) & (second < ABSTAIN)
    return metrics.confusion(np.where(both, second, 0), np.where(both, first, IGNORE), class_count)


def agreements(pairs: Sequence[Pair], how: Precision, *, seed: int) -> tuple[Agreement, ...]:
    """All pairs together first, then each two people by their names; empty where no tile has two labels."""
    told = [one for one in pairs if one.counts.sum()]
    if not told:
        return ()
    people = sorted({one.people for one in told})
    by_people = [_of(two, [one for one in told if one.people == two], how, seed) for two in people]
    return (_of(None, told, how, seed), *by_people)


def _of(people: tuple[str, str] | None, pairs: Sequence[Pair], how: Precision, seed: int) -> Agreement:
    ordered = sorted(pairs, key=lambda one: (one.group, one.tile_id, one.people))
    counts = np.stack([one.counts for one in ordered])
    each = [(float(metrics.mean_dice(one.counts)), one.tile_id) for one in ordered]
    lowest = min(each)
    return Agreement(
        people=people,
        tiles=len({one.tile_id for one in ordered}),
        blind_tiles=len({one.tile_id for one in ordered if one.blind}),
        pixels=int(counts.sum()),
        dice=float(metrics.mean_dice(counts.sum(axis=0))),
        bounds=_bounds(ordered, counts, how, seed),
        lowest=(lowest[1], lowest[0]),
    )


def _bounds(pairs: Sequence[Pair], counts: NDArray[np.int64], how: Precision, seed: int) -> Bounds:
    _, names = drawn_units([one.group for one in pairs])
    if len(set(names)) < how.least_units:
        return None
    weights = draw_weights(names, how.draws, np.random.default_rng(seed))
    hits = weights @ np.einsum("tcc->tc", counts)
    sides = weights @ (counts.sum(axis=1) + counts.sum(axis=2))
    dice = np.divide(2 * hits, sides, out=np.full(hits.shape, np.nan), where=sides > 0)
    held = np.isfinite(dice)
    means = np.where(held, dice, 0).sum(axis=1) / np.maximum(held.sum(axis=1), 1)
    return interval(np.where(held.any(axis=1), means, np.nan), how.confidence)
