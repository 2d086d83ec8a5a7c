"""A map's mean over a region that was drawn: for what is asked of a region after it was found. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rasterio import features

from mpamatch.domain.grids import FloatArray


def mean_inside(field: FloatArray, rings: Sequence[Sequence[Sequence[float]]], size_px: tuple[int, int]) -> float:
    """The mean of a map (h, w) over the cells that an outline touches.

    ``rings`` are in pixels of the tile of ``size_px`` (width, height), the exterior first; the map covers the tile.
    """
    factors = np.array([field.shape[1] / size_px[0], field.shape[0] / size_px[1]])
    scaled = [(np.asarray(ring, np.float64) * factors).tolist() for ring in rings]
    outline = {"type": "Polygon", "coordinates": scaled}
    touched = features.rasterize([(outline, 1)], out_shape=field.shape, all_touched=True, dtype="uint8").astype(bool)
    return float(field[touched].mean()) if touched.any() else 0.0
