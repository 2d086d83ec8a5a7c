"""Labels inside a few boxes of a mask alone, as a queue of regions leaves them; for experiments. Pure numpy.

Regime `sparse` of the results: two boxes of 32 px at the working scale, with foreground and background in each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.draws import hash_draw
from mpamatch.errors import BadInput

LEAST_FOREGROUND, MOST_FOREGROUND = 0.2, 0.8


def sparse_boxes(
    mask: NDArray[np.uint8], name: str, seed: int, *, side_px: int = 32, boxes: int = 2
) -> NDArray[np.uint8]:
    """The mask uint8 (H, W) inside ``boxes`` random squares of ``side_px``, 255 elsewhere; by (seed, name) alone.

    Drawn evenly among the squares of which 20 to 80 % are foreground (as if redrawn until that holds); where there is
    none, among those that come nearest to it. Squares overlap only where there is no room beside each other, and are
    cut to a mask that is smaller. Raises BadInput for a size or number below 1.
    """
    if side_px < 1 or boxes < 1:
        raise BadInput("sparse boxes", f"{boxes} of {side_px} px", "give 1 or more of at least 1 px")
    height_px, width_px = min(side_px, mask.shape[0]), min(side_px, mask.shape[1])
    share = _foreground_share(mask, height_px, width_px)
    away = np.maximum(LEAST_FOREGROUND - share, share - MOST_FOREGROUND).clip(min=0.0)
    rng = np.random.default_rng(hash_draw(seed, "sparse boxes", name))
    kept = np.full_like(mask, IGNORE)
    free = np.ones(share.shape, bool)
    for _ in range(boxes):
        open_places = free if free.any() else np.ones_like(free)
        places = np.argwhere(open_places & (away <= away[open_places].min()))
        y, x = places[rng.integers(len(places))]
        kept[y : y + height_px, x : x + width_px] = mask[y : y + height_px, x : x + width_px]
        free[max(0, y - height_px + 1) : y + height_px, max(0, x - width_px + 1) : x + width_px] = False
    return kept


def _foreground_share(mask: NDArray[np.uint8], height_px: int, width_px: int) -> NDArray[np.float64]:
    """The share of foreground in each box, by its top left corner, from an integral image."""
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    sums[1:, 1:] = ((mask != 0) & (mask != IGNORE)).cumsum(axis=0).cumsum(axis=1)
    h, w = height_px, width_px
    return (sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]) / (h * w)
