"""Which labels the cells of a regime get: few whole images, half of them, or small boxes on each. Pure.

``few`` and ``shift`` label a few whole images (``shift`` begins with a model of another laboratory), ``many`` half of
the train images, ``sparse`` two boxes on each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.classes import IGNORE
from mpamatch.errors import BadInput

REGIMES: tuple[str, ...] = ("few", "sparse", "shift", "many")

BOX_SIDE_PX = 32
"""Side of a box at the working scale."""
BOXES = 2
BOX_FOREGROUND_SHARE = (0.2, 0.8)
_TRIES = 200

_FEW = {"glas": 4, "ebhi": 16}
_FEW_SHARE = 0.1


def labelled_count(regime: str, dataset: str, train_images: int, *, asked: int | None, share: float | None) -> int:
    """How many whole images are labelled: what was ``asked``, else a ``share``, else what the regime says.

    A share is at least one image. Raises BadInput for an unknown regime and for more than there are.
    """
    if regime not in REGIMES:
        raise BadInput(f"regime {regime!r}", "unknown", f"one of {', '.join(REGIMES)}")
    if share is not None:
        count = max(1, round(share * train_images))
    elif asked is not None:
        count = asked
    elif regime == "sparse":
        count = train_images
    elif regime == "many":
        count = max(1, train_images // 2)
    else:
        count = _FEW.get(dataset.partition("-")[0], max(2, round(_FEW_SHARE * train_images)))
    if count > train_images:
        raise BadInput("labelled images", f"{count} wanted of {train_images} train images", "ask for fewer")
    return count


def boxed(mask: NDArray[np.uint8], *, side_px: int, rng: np.random.Generator, boxes: int = BOXES) -> NDArray[np.uint8]:
    """The mask (H, W) inside ``boxes`` random squares, and 255 elsewhere; the argument stays as it is.

    A box is drawn again until 20 to 80 % of its labelled pixels are foreground; where none is found in 200 tries the
    one that came closest is taken. Boxes may overlap. ``side_px`` is cut to the mask.
    """
    kept = np.full_like(mask, IGNORE)
    height_px, width_px = min(side_px, mask.shape[0]), min(side_px, mask.shape[1])
    for _ in range(boxes):
        best, best_miss = (slice(0, height_px), slice(0, width_px)), np.inf
        for _ in range(_TRIES):
            y = int(rng.integers(mask.shape[0] - height_px + 1))
            x = int(rng.integers(mask.shape[1] - width_px + 1))
            area = (slice(y, y + height_px), slice(x, x + width_px))
            miss = _miss(mask[area])
            if miss < best_miss:
                best, best_miss = area, miss
            if miss == 0:
                break
        kept[best] = mask[best]
    return kept


def _miss(box: NDArray[np.uint8]) -> float:
    """How far a box's share of foreground lies outside what is wanted; infinite without any label."""
    labelled = box[box != IGNORE]
    if not labelled.size:
        return float("inf")
    share, (low, high) = float((labelled > 0).mean()), BOX_FOREGROUND_SHARE
    return max(low - share, share - high, 0.0)
