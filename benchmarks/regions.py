"""From probabilities to regions at 1024 px with 5 classes, on one core.

All of it: the gate by tau of each class and by disagreement, areas, boxes, factors and embeddings. Fields are smooth
random ones with about a quarter of the area below tau, as trained models show on real tissue. The light model's head
works at half resolution, so its regions are found on every second pixel of the raster; the figures at every pixel stand
beside it. What else of a model's answer is used has the light model's sizes at half of the tile's: cells of 8 px for
disagreement and pixel embeddings (64), of 64 px for the encoder's deepest features (320).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import ndimage

# Run as a file: the repository's root takes the place of this folder, where `queue` is not the standard library's.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

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


@dataclass(frozen=True)
class Answer:
    """What a model would say of a tile, and where the tile is tissue."""

    probabilities: npt.NDArray[np.float32]
    disagreement: npt.NDArray[np.float32]
    vectors: tuple[npt.NDArray[np.float32], ...]
    tissue: npt.NDArray[np.bool_]

    @classmethod
    def drawn(cls, blob_px: float) -> Answer:
        """Disagreement is above its gate on a few per cent of the tile; a corner of it is glass."""
        rng = np.random.default_rng(1)
        apart = ndimage.gaussian_filter(rng.standard_normal((128, 128)), blob_px / 8)
        tissue = np.ones((128, 128), bool)
        tissue[:32, :32] = False
        return cls(
            probabilities=smooth_probabilities(blob_px),
            disagreement=np.clip(0.15 + 0.2 * apart / apart.std(), 0, 1).astype(np.float32),
            vectors=(
                rng.standard_normal((64, 128, 128), dtype=np.float32),
                rng.standard_normal((320, 16, 16), dtype=np.float32),
            ),
            tissue=tissue,
        )


def measure(repeats: int = 9, blobs_px: Sequence[float] = (12.0, 32.0)) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    slowest = 0.0
    for blob_px in blobs_px:
        answer = Answer.drawn(blob_px)
        below = float((answer.probabilities.max(axis=0) < TAU).mean())
        apart = float((answer.disagreement > 0.5).mean())
        share = f"{below:.0%} of the area below tau, {apart:.0%} in disagreement"
        halved = median_ms(partial(_regions, answer, 2), repeats)
        whole = median_ms(partial(_regions, answer, 1), repeats)
        figures[f"regions_1024_5c_every_2nd_pixel_blob{blob_px:g}_ms"] = Figure(halved, "ms", BOUND_MS, share)
        figures[f"regions_1024_5c_every_pixel_blob{blob_px:g}_ms"] = Figure(whole, "ms", None, share)
        slowest = max(slowest, halved)
    figures["regions_1024_5c_ms"] = Figure(slowest, "ms", BOUND_MS, "every second pixel; the slower of two fields")
    return figures


def _regions(answer: Answer, step: int) -> object:
    return find_regions(
        answer.probabilities[:, ::step, ::step],
        [TAU] * CLASSES,
        disagreement=answer.disagreement,
        vectors=answer.vectors,
        tissue=answer.tissue,
        scale=float(step),
    )


if __name__ == "__main__":
    run(measure, __doc__)
