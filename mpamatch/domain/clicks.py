"""How many clicks a mask is worth: drawn on an empty tile, or corrected from what was shown.

Pure; of rasterio it uses ``features`` alone. What an outline takes is `cost.CostModel`'s; an outline's length is that
once it is simplified to 2 px.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from rasterio import features
from shapely.geometry import shape

from mpamatch.domain.classes import ABSTAIN
from mpamatch.domain.cost import CostModel

_SIMPLIFIED_PX: Final = 2.0


def clicks_to_correct(shown: NDArray[np.uint8], mask: NDArray[np.uint8], cost: CostModel) -> float:
    """Clicks that turn what was shown into the mask, where the mask says something. The boundary is that of the areas
    that changed: one that moved is drawn once and outlined on both sides."""
    changed = (mask < ABSTAIN) & (mask != shown)
    areas, length_px = _outlined(changed.astype(np.uint8), changed, connectivity=8)  # a slanting strip is one area
    return cost.correction_clicks(areas, length_px)


def clicks_to_draw(mask: NDArray[np.uint8], cost: CostModel) -> float:
    """Clicks that draw the mask on an empty tile, each area of a class for itself."""
    areas, length_px = _outlined(mask, (mask > 0) & (mask < ABSTAIN), connectivity=4)
    return cost.contour_clicks(areas, length_px)


def _outlined(values: NDArray[np.uint8], where: NDArray[np.bool_], *, connectivity: int) -> tuple[float, float]:
    """How many connected areas there are, and the length of their simplified outlines, holes included."""
    parts = features.shapes(values, mask=where, connectivity=connectivity)
    found = [shape(geometry).simplify(_SIMPLIFIED_PX) for geometry, _ in parts]
    return float(len(found)), float(sum(one.length for one in found))
