"""Tiles as a model of known honesty predicts them, tallied."""

from __future__ import annotations

import numpy as np

from mpamatch.domain.tallies import LEVELS, MASKED, PREDICTED, RIGHT, TileTally


def tile(tile_id: int, group: str, levels: dict[int, tuple[int, int]], class_id: int = 1) -> TileTally:
    """Two classes; by level: pixels predicted as the class, and how many of them are right."""
    counts = np.zeros((3, LEVELS, 2), np.int64)
    for level, (pixels, right) in levels.items():
        counts[PREDICTED, level, class_id] += pixels
        counts[RIGHT, level, class_id] += right
        counts[MASKED, level, class_id] += right
        counts[MASKED, level, 1 - class_id] += pixels - right
    return TileTally(tile_id, group, counts)


def honest(tile_id: int, group: str, seed: int, *, over: float = 0.0, pixels: int = 4000) -> TileTally:
    """Predicted as class 1 with confidence from 0.5 up, right as often as said less ``over``."""
    rng = np.random.default_rng(seed)
    level = rng.integers(128, 256, pixels)
    right = rng.random(pixels) < np.clip(level / 255 - over, 0, 1)
    found: dict[int, tuple[int, int]] = {}
    for q in np.unique(level):
        found[int(q)] = (int((level == q).sum()), int((right & (level == q)).sum()))
    return tile(tile_id, group, found)
