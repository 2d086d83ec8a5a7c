"""Metrics of objects and outlines: object Dice and Hausdorff distance. Pure numpy and scipy, masks of one image.

Objects are the connected components of a class, 8-connected (scipy.ndimage.label): two glands that touch are one
object on both sides. Distances are in pixels of the mask.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from mpamatch.domain.classes import IGNORE

Mask = NDArray[np.bool_]
HAUSDORFF_PERCENT = 95.0
_MOST_PAIRS = 4_000_000
_EIGHT = np.ones((3, 3), np.int64)


def components(mask: Mask) -> NDArray[np.int32]:
    """The objects of a mask bool (H, W) as numbers 1..n, int32 (H, W); 0 where there is none.

    >>> components(np.eye(3, dtype=bool)).max().item()
    1
    """
    numbered, _ = ndimage.label(mask, structure=_EIGHT, output=np.int32)
    return numbered


def object_dice(prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> float:
    """Object Dice of two label images (H, W), 0 background and one number for each object.

    Each object is compared with the object of the other side that covers most of it; Dice values are weighted by area
    and both directions are averaged. 1 when neither side has an object, 0 when one has none. Source: the GlaS
    challenge, Sirinukunwattana et al., Medical Image Analysis 35, 2017, section 4.2. Symmetric.

    >>> object_dice(np.array([[1, 1, 0]]), np.array([[1, 1, 0]]))
    1.0
    """
    shared = _overlaps(prediction, truth)
    if shared.shape == (1, 1):
        return 1.0
    if 1 in shared.shape:
        return 0.0
    return (_one_way(shared) + _one_way(shared.T)) / 2


def _overlaps(a: NDArray[np.integer], b: NDArray[np.integer]) -> NDArray[np.int64]:
    """Pixels by object of ``a`` (rows) and of ``b`` (columns), background first; int64 (n_a + 1, n_b + 1)."""
    height, width = int(a.max(initial=0)) + 1, int(b.max(initial=0)) + 1
    if height * width > _MOST_PAIRS:  # numbers far apart: sorting costs more than counting, so only then
        a, b = (np.unique(np.append(x.ravel(), 0), return_inverse=True)[1][:-1] for x in (a, b))
        height, width = int(a.max(initial=0)) + 1, int(b.max(initial=0)) + 1
    pairs = a.ravel().astype(np.int64) * width + b.ravel()
    counts = np.bincount(pairs, minlength=height * width).reshape(height, width)
    rows: Mask = np.asarray(counts.any(axis=1))
    columns: Mask = np.asarray(counts.any(axis=0))
    rows[:1], columns[:1] = True, True
    return counts[rows][:, columns].astype(np.int64)


def _one_way(shared: NDArray[np.int64]) -> float:
    """Dice of every object of the rows with the column object that covers most of it, weighted by area."""
    row_areas, column_areas = shared.sum(axis=1)[1:], shared.sum(axis=0)[1:]
    inner = shared[1:, 1:]
    best = inner.argmax(axis=1)
    most = inner[np.arange(len(inner)), best]
    dice = np.where(most > 0, 2.0 * most / (row_areas + column_areas[best]), 0.0)
    return float((row_areas * dice).sum() / row_areas.sum())


def hausdorff(prediction: Mask, truth: Mask, percent: float = HAUSDORFF_PERCENT) -> float:
    """Distance in px between the borders of two masks bool (H, W): the larger of both directed percentiles.

    A border is the pixels of a mask with a neighbour (of 4) outside it; the edge of the image counts as outside.
    ``percent`` 100 is the Hausdorff distance itself. nan when neither mask has a pixel; the image's diagonal when one
    has none, so that a missed class counts as the worst and a mean stays finite.
    """
    if not prediction.any() and not truth.any():
        return float("nan")
    if not prediction.any() or not truth.any():
        return math.hypot(*prediction.shape)
    ours, theirs = border(prediction), border(truth)
    there, back = _nearest(ours, theirs), _nearest(theirs, ours)
    return float(max(np.percentile(there, percent), np.percentile(back, percent)))


def _nearest(points: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
    """Distance from each point to the nearest of the others, px."""
    distances: NDArray[np.float64] = cKDTree(others, balanced_tree=False, compact_nodes=False).query(points)[0]
    return distances


def border(mask: Mask) -> NDArray[np.int64]:
    """The border pixels of a mask as (row, column), int64 (n, 2); see :func:`hausdorff`."""
    # Four shifts cost a tenth of scipy's erosion.
    around = np.pad(mask, 1)
    inside = around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return np.argwhere(mask & ~inside)


def class_objects(guess: NDArray[np.uint8], mask: NDArray[np.uint8], class_count: int) -> NDArray[np.float64]:
    """Object Dice and Hausdorff 95 (px) of every class but background, float64 (2, C - 1); pixels with 255 are none.

    ``guess`` and ``mask`` are class ids (H, W). A class that neither has is nan in both rows: the mean over images
    leaves it out, where the challenge's own rule would count 1.
    """
    found = np.full((2, class_count - 1), np.nan)
    for class_id in range(1, class_count):
        ours, theirs = (guess == class_id) & (mask != IGNORE), mask == class_id
        if ours.any() or theirs.any():
            found[0, class_id - 1] = object_dice(components(ours), components(theirs))
            found[1, class_id - 1] = hausdorff(ours, theirs)
    return found
