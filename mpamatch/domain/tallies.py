"""How one model's prediction of a tile stands to a mask, counted by confidence: what every audit of tau is summed from.

A tally adds up over tiles, and it keeps the confidence at the 256 levels at which predictions are stored, so that bins
and thresholds can be chosen afterwards. A pixel passes tau when its stored level, over 255, is at least tau.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.classes import ABSTAIN
from mpamatch.errors import BadInput

Tally = NDArray[np.int64]

LEVELS: Final = 256
PREDICTED, MASKED, RIGHT = 0, 1, 2


@dataclass(frozen=True)
class TileTally:
    """One tile with its tally. ``counts``: int64 (3, 256, C), see :func:`tally`."""

    tile_id: int
    group: str
    counts: Tally


def tally(
    class_map: NDArray[np.uint8], confidence: NDArray[np.uint8], mask: NDArray[np.uint8], class_count: int
) -> Tally:
    """Pixels with a label by what, level of confidence and class, int64 (3, 256, C): predicted as it, masked as it, and
    both at once. ``confidence`` holds levels 0..255; pixels with 254 or 255 in the mask do not count.

    Raises BadInput for different shapes or ids outside the class set.
    """
    if not class_map.shape == confidence.shape == mask.shape:
        shapes = f"shapes {class_map.shape}, {confidence.shape} and {mask.shape} differ"
        raise BadInput("prediction", shapes, "count at the mask's size")
    seen = mask < ABSTAIN
    level, guess, truth = (a[seen].astype(np.int64) for a in (confidence, class_map, mask))
    if truth.size and max(int(truth.max()), int(guess.max())) >= class_count:
        raise BadInput("mask", f"a class id is not below {class_count}", "check the class list")
    places = (level * class_count + guess, level * class_count + truth, (level * class_count + guess)[guess == truth])
    rows = [np.bincount(place, minlength=LEVELS * class_count) for place in places]
    return np.stack(rows).reshape(3, LEVELS, class_count).astype(np.int64)


def pack(counts: Tally) -> bytes:
    """A tally as bytes: little-endian 32-bit counts, deflated. A tile has fewer than 2^31 pixels."""
    return zlib.compress(np.ascontiguousarray(counts, dtype="<i4").tobytes(), 6)


def unpack(data: bytes, class_count: int) -> Tally:
    """The inverse of :func:`pack`, int64 (3, 256, C); classes that came later hold nothing. Raises BadInput."""
    try:
        flat = np.frombuffer(zlib.decompress(data), dtype="<i4")
        counts = flat.reshape(3, LEVELS, len(flat) // (3 * LEVELS)).astype(np.int64)
    except (zlib.error, ValueError) as error:
        raise BadInput("tally", f"damaged ({error})", "delete its row; it is counted again") from error
    later = class_count - counts.shape[2]
    if later < 0 or not counts.shape[2]:
        raise BadInput("tally", f"of {counts.shape[2]} classes, there are {class_count}", "delete its row")
    return np.pad(counts, ((0, 0), (0, 0), (0, later)))


def first_level(threshold: float) -> int:
    """The lowest level that passes a threshold in 0..1.

    >>> first_level(0.0), first_level(0.95), first_level(1.0)
    (0, 243, 255)
    """
    return math.ceil(threshold * (LEVELS - 1) - 1e-9)


def passing(counts: Tally, taus: Sequence[float]) -> Tally:
    """Sums over the levels that pass each class's own threshold, (..., 256, C) -> (..., C)."""
    return np.stack([counts[..., first_level(tau) :, c].sum(axis=-1) for c, tau in enumerate(taus)], axis=-1)


def level_sums(counts: Tally, starts: Sequence[int]) -> Tally:
    """Sums over runs of levels, (..., len(starts), C): each from its start to the next one's, the last to the end."""
    return np.add.reduceat(counts, list(starts), axis=-2)


def confidence_sums(counts: Tally) -> NDArray[np.float64]:
    """Each level's predicted pixels times its confidence, float64 (256, C): what mean confidences are made of."""
    return counts[PREDICTED] * (np.arange(LEVELS) / (LEVELS - 1))[:, None]


def in_order(tiles: Sequence[TileTally]) -> list[TileTally]:
    """By group, then by tile, as draws by group need them. Raises BadInput for a tile that comes twice, or shapes that
    differ."""
    ordered = sorted(tiles, key=lambda one: (one.group, one.tile_id))
    if len({one.tile_id for one in ordered}) != len(ordered):
        raise BadInput("tallies", "a tile comes twice", "count each tile once per model")
    if len({one.counts.shape for one in ordered}) > 1:
        raise BadInput("tallies", "have different numbers of classes", "count with one class list")
    return ordered
