"""What a model alone says of many areas at once: sums over their own pixels, in the order of their labels. Pure.

The logarithms of all other pixels would cost most of the time. Sources of the factors: entropy and margin as in
Xie et al., "Towards Fewer Annotations" (RIPU), CVPR 2022; class scores as in ClaSP PE (Luth et al. 2026).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpamatch.domain.grids import FloatArray, Ints
from mpamatch.domain.region_areas import LabelArray

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pixels:
    """The pixels of all areas of a raster of ``shape``: flat ``places``, and the ``owners``, from 0, they belong to."""

    places: Ints
    owners: Ints
    count: int
    shape: tuple[int, int]

    @classmethod
    def of(cls, labels: LabelArray, count: int) -> Pixels:
        places = np.flatnonzero(labels)
        return cls(places, labels.ravel()[places].astype(np.intp) - 1, count, (labels.shape[0], labels.shape[1]))

    def mean(self, values: npt.NDArray[np.generic]) -> Floats:
        """The mean of one value for each of ``places``, by area."""
        sums = np.bincount(self.owners, weights=values, minlength=self.count)
        means: Floats = sums / np.maximum(np.bincount(self.owners, minlength=self.count), 1)
        return means

    def only(self, chosen: list[int]) -> Pixels:
        """The pixels of some areas, numbered anew in the order given."""
        number = np.full(self.count, -1, np.intp)
        number[chosen] = np.arange(len(chosen))
        owners = number[self.owners]
        kept = owners >= 0
        return Pixels(self.places[kept], owners[kept], len(chosen), self.shape)


@dataclass(frozen=True)
class Facts:
    """Per area. ``class_scores`` (N, C): the mean over its pixels of entropy / log C times each class's probability.

    ``worth`` is how much doubt there is in all, by which areas are sorted.
    """

    area: npt.NDArray[np.int64]
    uncertainty: Floats
    margin: Floats
    confidence: Floats
    disagreement: Floats
    predicted: Ints
    class_scores: Floats
    worth: Floats

    @classmethod
    def of(
        cls,
        probabilities: FloatArray,
        confidence: FloatArray,
        predicted: npt.NDArray[np.uint8],
        disagreement: FloatArray | None,
        pixels: Pixels,
    ) -> Facts:
        """Rasters are (H, W), ``probabilities`` (C, H, W); ``disagreement`` None is none anywhere."""
        classes = probabilities.shape[0]
        shares = [plane[pixels.places] for plane in probabilities.reshape(classes, -1)]
        best, second, entropy = _of_pixels(shares)
        entropy /= np.float32(np.log(classes))
        area = np.bincount(pixels.owners, minlength=pixels.count)
        votes = np.bincount(
            pixels.owners * classes + predicted.ravel()[pixels.places], minlength=pixels.count * classes
        )
        uncertainty = np.clip(pixels.mean(entropy), 0.0, 1.0)
        between = np.zeros(pixels.count)
        if disagreement is not None:
            between = np.clip(pixels.mean(disagreement.ravel()[pixels.places]), 0.0, 1.0)
        return cls(
            area=area,
            uncertainty=uncertainty,
            margin=pixels.mean(best - second),
            confidence=pixels.mean(confidence.ravel()[pixels.places]),
            disagreement=between,
            predicted=votes.reshape(pixels.count, classes).argmax(axis=1),
            class_scores=np.clip(np.stack([pixels.mean(entropy * p) for p in shares], axis=1), 0.0, 1.0),
            worth=(uncertainty + between) * area,
        )


def _of_pixels(shares: list[FloatArray]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Highest and second probability and entropy in nats."""
    best, second, entropy = (np.zeros(shares[0].shape, np.float32) for _ in range(3))
    for p in shares:
        second = np.maximum(second, np.minimum(best, p))
        best = np.maximum(best, p)
        entropy -= p * np.log(np.maximum(p, np.float32(1e-12)))
    return best, second, entropy
