"""An order kept as scores: strictly ascending numbers in (0, 1), changing as few of the present ones as possible.

Changing a score costs a call to a server; an order only needs that they ascend. So the longest part of the present
scores that already ascends stays, and the others are laid between their neighbours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from mpamatch.errors import BadInput

_LEAST_GAP = 1e-9


def ascending_scores(present: Sequence[float | None], natural: Sequence[float]) -> tuple[float, ...]:
    """Scores for places 0, 1, ... ``present``: what each place has now, None where it has none. ``natural``: what it
    would get if nothing were there, strictly ascending in (0, 1); used wherever it fits.

    Raises BadInput when ``natural`` does not ascend within (0, 1) or the lengths differ.

    >>> ascending_scores((0.1, None), (0.25, 0.5))
    (0.1, 0.5)
    """
    bounds = [0.0, *natural, 1.0]
    if len(present) != len(natural) or any(a >= b for a, b in pairwise(bounds)):
        raise BadInput("scores", "the natural ones do not ascend within 0 and 1", "give rank / (count + 1)")
    kept = _longest_ascending(present)
    scores = [present[i] if i in kept else None for i in range(len(present))]
    filled = _fill(scores, natural)
    gaps = [b - a for a, b in zip([0.0, *filled], [*filled, 1.0], strict=True)]
    return tuple(natural) if min(gaps, default=1.0) < _LEAST_GAP else tuple(filled)


def _longest_ascending(values: Sequence[float | None]) -> set[int]:
    """Places of a longest strictly ascending part; the later one where several are as long."""
    tails: list[float] = []
    places: list[int] = []
    before: dict[int, int | None] = {}
    for place, value in enumerate(values):
        if value is None or not 0 < value < 1:
            continue
        at = bisect_left(tails, value)
        tails[at : at + 1] = [value]
        places[at : at + 1] = [place]
        before[place] = places[at - 1] if at else None
    kept: set[int] = set()
    place_or_none = places[-1] if places else None
    while place_or_none is not None:
        kept.add(place_or_none)
        place_or_none = before[place_or_none]
    return kept


def _fill(scores: Sequence[float | None], natural: Sequence[float]) -> list[float]:
    filled: list[float] = []
    low, start = 0.0, 0
    for place in range(len(scores) + 1):
        high = scores[place] if place < len(scores) else 1.0
        if high is None:
            continue
        filled += _between(natural[start:place], low, high)
        if place < len(scores):
            filled.append(high)
        low, start = high, place + 1
    return filled


def _between(natural: Sequence[float], low: float, high: float) -> list[float]:
    if not natural:
        return []
    if low < natural[0] and natural[-1] < high:
        return list(natural)
    return [low + (high - low) * (k + 1) / (len(natural) + 1) for k in range(len(natural))]
