"""From probabilities to regions at 1024 px with 5 classes, on one core.

Fields are smooth random ones with about a quarter of the area below tau, as trained models show on real tissue. The
light model's head works at half resolution, so its regions are found on every second pixel of the raster; the figures
at every pixel stand beside it.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

# Benchmarks are run as files; the repository's root is then not on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import Figure, median_ms, run
from mpamatch.domain.regions import find_regions

TILE_PX = 1024
CLASSES = 5
TAU = 0.95
BOUND_MS = 60.0


def smooth_probabilities(blob_px: float, seed: int = 0) -> npt.NDArray[np.float32]:
    """Softmax of smoothed noise, float32 (5, 1024, 1024); ``blob_px`` is the sigma of the smoothing."""
    rng = np.random.default_rng(seed)
    noise = (rng.standard_normal((TILE_PX, TILE_PX)) for _ in range(CLASSES))
    planes = np.stack([ndimage.gaussian_filter(plane, blob_px) for plane in noise])
    weights = np.exp(12.0 * planes / planes.std())
    return (weights / weights.sum(axis=0)).astype(np.float32)


def measure() -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    slowest = 0.0
    for blob_px in (12.0, 32.0):
        field = smooth_probabilities(blob_px)
        share = f"{float((field.max(axis=0) < TAU).mean()):.0%} of the area below tau"
        halved = median_ms(partial(_regions, field, 2))
        whole = median_ms(partial(_regions, field, 1))
        figures[f"regions_1024_5c_every_2nd_pixel_blob{blob_px:g}_ms"] = Figure(halved, "ms", BOUND_MS, share)
        figures[f"regions_1024_5c_every_pixel_blob{blob_px:g}_ms"] = Figure(whole, "ms", None, share)
        slowest = max(slowest, halved)
    figures["regions_1024_5c_ms"] = Figure(slowest, "ms", BOUND_MS, "every second pixel; the slower of two fields")
    return figures


def _regions(field: npt.NDArray[np.float32], step: int) -> object:
    return find_regions(field[:, ::step, ::step], TAU, scale=float(step))


if __name__ == "__main__":
    run(measure, __doc__)
