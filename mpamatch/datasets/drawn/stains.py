"""How a drawn section looks under a scanner: stain vectors, amounts, glass, camera. Sources are in ``STAINS``.

Density becomes light by the law of Beer and Lambert (Ruifrok and Johnston, Analytical and Quantitative Cytology and
Histology 23, 2001).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpamatch.datasets.drawn.density import Density
from mpamatch.datasets.drawn.textures import FloatArray, noise


@dataclass(frozen=True)
class Stain:
    """Optical density per unit of dye, as red, green, blue of length 1, and how much of each dye there may be.

    Amounts are ranges for the darkest nuclei and the densest eosin.
    """

    source: str
    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    haematoxylin_amount: tuple[float, float]
    eosin_amount: tuple[float, float]


STAINS: tuple[Stain, ...] = (
    Stain("Ruifrok and Johnston 2001, H&E", (0.644, 0.717, 0.267), (0.093, 0.954, 0.283), (1.2, 2.8), (0.6, 1.6)),
    Stain("Ruifrok and Johnston 2001, H&E-DAB", (0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (1.2, 2.8), (0.6, 1.6)),
    Stain("Macenko et al. 2009, reference", (0.563, 0.720, 0.406), (0.216, 0.801, 0.558), (1.2, 2.6), (0.6, 1.6)),
    Stain("ImageJ Colour Deconvolution, H&E 2", (0.490, 0.769, 0.410), (0.046, 0.842, 0.537), (1.2, 2.4), (0.6, 1.4)),
    # Below: centres of clusters of the vectors that Macenko's method finds in each image of the train list. Nothing
    # here was measured on a set whose licence forbids to ship what it taught.
    Stain("EBHI-Seg train, 12 of 163 images", (0.71, 0.69, 0.16), (0.31, 0.93, 0.14), (3.0, 5.0), (1.4, 2.6)),
    Stain("EBHI-Seg train, 41 of 163 images", (0.65, 0.72, 0.20), (0.29, 0.94, 0.14), (2.4, 4.2), (1.2, 2.2)),
    Stain("EBHI-Seg train, 33 of 163 images", (0.71, 0.64, 0.24), (0.38, 0.91, 0.15), (2.2, 3.6), (1.1, 2.1)),
    Stain("EBHI-Seg train, 29 of 163 images", (0.70, 0.69, 0.15), (0.36, 0.92, 0.12), (2.6, 4.4), (1.4, 2.6)),
    Stain("EBHI-Seg train, 11 of 163 images", (0.69, 0.70, 0.18), (0.29, 0.94, 0.15), (2.8, 4.6), (1.4, 2.5)),
    Stain("EBHI-Seg train, 37 of 163 images", (0.66, 0.72, 0.22), (0.39, 0.91, 0.15), (1.8, 3.2), (0.9, 1.8)),
)
_BLOOD = np.array([0.12, 0.88, 0.46])


@dataclass(frozen=True)
class Look:
    """One section on one scanner: vectors with amounts multiplied in, (3,) each, and the camera."""

    haematoxylin: npt.NDArray[np.float64]
    eosin: npt.NDArray[np.float64]
    blood: npt.NDArray[np.float64]
    glass: npt.NDArray[np.float64]
    gamma: float
    unevenness: float
    noise: float


def draw_look(rng: np.random.Generator) -> Look:
    """A stain of the table by chance, turned a little, with its glass and camera."""
    stain = STAINS[int(rng.integers(len(STAINS)))]
    haematoxylin, eosin = (_turned(rng, np.array(v)) for v in (stain.haematoxylin, stain.eosin))
    # The vectors are the extremes of a picture. Nuclei take up eosin too: in the train lists they lie well between.
    haematoxylin = haematoxylin + rng.uniform(0.15, 1.1) * eosin
    haematoxylin /= np.linalg.norm(haematoxylin)
    pink = float(rng.uniform(*stain.eosin_amount))
    tint = rng.normal(0.0, 0.035, 3) * (rng.random() < 0.6)
    return Look(
        haematoxylin=haematoxylin * float(rng.uniform(*stain.haematoxylin_amount)),
        eosin=eosin * pink,
        blood=_turned(rng, _BLOOD) * pink * float(rng.uniform(0.5, 1.0)),
        glass=np.clip(rng.uniform(0.90, 1.02) + tint, 0.72, 1.04),
        gamma=float(np.exp(rng.normal(0.0, 0.10))),
        unevenness=float(rng.uniform(0.0, 0.08)),
        noise=float(rng.uniform(0.003, 0.022)),
    )


def light(rng: np.random.Generator, density: Density, look: Look) -> FloatArray:
    """What reaches the camera, float32 (H, W, 3), 1 is full white."""
    size = density.size_px
    thick = 1.0 + look.unevenness * noise(rng, size, 40.0, 40.0)
    total = sum(
        (dye * thick)[..., None] * vector.astype(np.float32)
        for dye, vector in (
            (density.haematoxylin, look.haematoxylin),
            (density.eosin, look.eosin),
            (density.blood, look.blood),
        )
    )
    seen: FloatArray = (look.glass.astype(np.float32) * np.exp(-np.asarray(total))).astype(np.float32)
    return seen


def _turned(rng: np.random.Generator, vector: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    moved = np.clip(vector + rng.normal(0.0, 0.035, 3), 0.02, None)
    turned: npt.NDArray[np.float64] = moved / np.linalg.norm(moved)
    return turned
