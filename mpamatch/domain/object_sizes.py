"""How large annotated objects are, and whether a transformer needs a stem of finer features to see them. Pure.

An object is a connected component of one class (8-connected), its size the diameter of a disc of its area. One that the
edge of a tile or of what was labelled cuts counts by what is seen of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.objects import components


def object_diameters_px(mask: NDArray[np.integer], class_count: int) -> NDArray[np.float64]:
    """Equivalent diameters 2 sqrt(area / pi) of the objects of a mask (H, W) of class ids, in px, float64 (n,).

    Every class but background; ids from ``class_count`` on (254 and 255) are no label. In no order that means anything.

    >>> object_diameters_px(np.array([[1, 1, 0, 2]]), 3).round(2).tolist()
    [1.6, 1.13]
    """
    areas = [np.bincount(components(mask == one).ravel())[1:] for one in range(1, class_count)]
    found: NDArray[np.float64] = 2 * np.sqrt(np.concatenate([np.zeros(0), *areas]) / math.pi)
    return found


def median_diameter_px(masks: Iterable[NDArray[np.integer]], class_count: int) -> float | None:
    """The median size of all objects of all masks, px; None without any.

    >>> median_diameter_px([np.zeros((2, 2), int)], 2)
    """
    diameters = np.concatenate([np.zeros(0), *(object_diameters_px(mask, class_count) for mask in masks)])
    return float(np.median(diameters)) if len(diameters) else None


def skips_for(median_px: float | None, below_px: float) -> Literal["none", "stem"]:
    """What ``skips=auto`` comes to: a stem for objects smaller than ``below_px``; none where there is no object.

    >>> skips_for(20.0, 32.0), skips_for(32.0, 32.0), skips_for(None, 32.0)
    ('stem', 'none', 'none')
    """
    return "stem" if median_px is not None and median_px < below_px else "none"
