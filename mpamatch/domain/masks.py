"""Masks as arrays: combine, paint, cut, resample, count. uint8 (H, W) class ids, 255 = no supervision.

Pure; nothing here modifies its arguments.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.tiling import Box

Mask = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]


def unsupervised(width_px: int, height_px: int) -> Mask:
    """A mask without any supervision."""
    return np.full((height_px, width_px), IGNORE, np.uint8)


def combine(older: Mask, newer: Mask) -> Mask:
    """The newer mask where it says something, the older elsewhere. Raises ValueError for different sizes."""
    if older.shape != newer.shape:
        raise ValueError(f"masks of {older.shape} and {newer.shape} cannot be combined")
    return np.where(newer != IGNORE, newer, older)


def paint(mask: Mask, where: BoolArray, class_id: int) -> Mask:
    """A copy with one class laid over; the last to be painted is on top."""
    painted = mask.copy()
    painted[where] = class_id
    return painted


def crop(mask: Mask, box: Box) -> Mask:
    """The part of a mask inside a box of the same frame."""
    return mask[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px].copy()


def resample(mask: Mask, width_px: int, height_px: int) -> Mask:
    """Nearest neighbour at pixel centres, so that no id is made up; the same size gives an equal copy."""
    rows = _nearest(mask.shape[0], height_px)
    columns = _nearest(mask.shape[1], width_px)
    return mask[rows[:, None], columns[None, :]]


def _nearest(old: int, new: int) -> npt.NDArray[np.intp]:
    return np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(np.intp)


def reviewed_share(mask: Mask) -> float:
    """The share of pixels with supervision, 0..1; 0 for an empty mask."""
    return float((mask != IGNORE).mean()) if mask.size else 0.0
