"""Draws with replacement that keep together what belongs together, and the intervals that come of them.

Tiles of one patient are not independent, so the patient is what is drawn: groups with replacement, then tiles within a
drawn group (Field and Welsh 2007, two-stage cluster bootstrap). Chance comes from the generator that is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEAST_GROUPS: Final = 4  # fewer cannot stand for the patients to come; then the tile is what is drawn


def draw_weights(groups: Sequence[str], draws: int, rng: np.random.Generator) -> Floats:
    """How often each tile counts in each draw, (draws, T): groups with replacement, then tiles within a drawn group.

    ``groups`` names each tile's group; tiles of one group stand side by side.
    """
    sizes = [len(list(members)) for _, members in groupby(groups)]
    times = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=draws)
    columns = [rng.multinomial(times[:, g] * n, np.full(n, 1 / n)) for g, n in enumerate(sizes)]
    return np.concatenate(columns, axis=1).astype(np.float64)


def drawn_units(groups: Sequence[str]) -> tuple[Literal["group", "tile"], list[str]]:
    """What is drawn, and each tile's unit: its group, or the tile itself while there are fewer than four groups.

    >>> drawn_units(["a", "a", "b"])
    ('tile', ['0', '1', '2'])
    """
    if len(set(groups)) >= LEAST_GROUPS:
        return "group", list(groups)
    return "tile", [str(place) for place in range(len(groups))]


def interval(values: Floats, confidence: float) -> tuple[float, float] | None:
    """The percentile interval of drawn figures; those that are nan are left out, and None when all are."""
    known = values[np.isfinite(values)]
    if not len(known):
        return None
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
