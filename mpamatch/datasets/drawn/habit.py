"""The habit of one drawn tile: how its glands grow, their lining, their stroma, and what befell the section.

Lengths are in pixels of the tile. ``scale`` is 1 where a nucleus of the epithelium is about 11 px long (40x seen at
half size); it runs from 0.55 to 1.45, so that neither cells nor glands have one size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Growth = Literal["crypts", "tubes", "branching", "fused", "nests", "sheets", "none"]
Mucin = Literal["none", "drops", "petals", "honeycomb"]

# How often each growth is drawn: about two thirds are glands one can count, a quarter is cancer-like.
_GROWTHS: dict[Growth, float] = {
    "crypts": 0.31,
    "tubes": 0.16,
    "branching": 0.15,
    "fused": 0.10,
    "nests": 0.06,
    "sheets": 0.17,
    "none": 0.05,
}


@dataclass(frozen=True)
class Habit:
    """What is common to one tile. Shares and probabilities are 0..1."""

    scale: float
    growth: Growth
    # layout
    radius_px: float
    elongation: tuple[float, float]
    angle: float
    disorder: float
    branching: float
    warp_px: float
    ragged_px: float
    tries: int
    tightness: float
    overlap: float
    gap_px: float
    fusing: float
    sheet_share: float
    edge: bool
    tears: int
    # epithelium
    height_px: float
    rows: int
    nucleus_long_px: float
    nucleus_short_px: float
    nucleus_strength: float
    vesicular: float
    mucin: Mucin
    mucin_share: float
    mucin_pale: float
    cytoplasm_blue: float
    cytoplasm_pink: float
    halo: float
    # stroma
    collagen: float
    looseness: float
    fibre_px: float
    fibrous: float
    spindles: float
    lymphocytes: float
    patchiness: float
    plasma_share: float
    red_cells: float
    vessels: float
    muscle: bool
    fat: bool


def draw_habit(rng: np.random.Generator) -> Habit:
    """One habit by chance; the ranges were set by looking at the train lists of EBHI-Seg and GlaS."""
    growth: Growth = str(rng.choice(list(_GROWTHS), p=list(_GROWTHS.values())))  # type: ignore[assignment]
    scale = float(np.exp(rng.uniform(np.log(0.55), np.log(1.45))))
    cancer = growth in ("fused", "nests", "sheets")
    dysplastic = cancer or (growth in ("tubes", "branching") and rng.random() < 0.6)
    radius = float(np.exp(rng.uniform(np.log(24.0), np.log(78.0)))) * scale
    if growth == "nests":
        radius *= 0.5
    elongation = {"tubes": (2.0, 8.0), "branching": (0.2, 1.6), "crypts": (0.0, 1.3)}.get(growth, (0.0, 2.5))
    mucins: tuple[Mucin, ...] = ("none", "drops", "petals", "honeycomb")
    weights = (0.66, 0.16, 0.10, 0.08) if dysplastic else (0.10, 0.25, 0.42, 0.23)
    crowded = rng.random() < 0.65
    return Habit(
        scale=scale,
        growth=growth,
        radius_px=radius,
        elongation=elongation,
        angle=float(rng.uniform(0.0, np.pi)),
        disorder=float(rng.choice([0.15, 0.4, 1.5])),
        branching=float(rng.choice([0.0, 0.15])),
        warp_px=radius * float(rng.uniform(0.06, 0.22) if growth == "crypts" else rng.uniform(0.12, 0.5)),
        ragged_px=float(rng.uniform(0.2, 1.6)) * scale,
        tries=int(rng.integers(120, 260)) if crowded else int(rng.integers(12, 60)),
        tightness=float(rng.uniform(0.1, 0.8) if crowded else rng.uniform(0.3, 1.0)),
        overlap=float(rng.uniform(0.02, 0.25)),
        gap_px=0.0 if rng.random() < 0.2 else float(rng.uniform(0.8, 9.0)) * scale,
        fusing=float(rng.uniform(0.2, 0.7)) if growth == "fused" else 0.0,
        sheet_share=float(rng.uniform(0.35, 0.92)),
        edge=bool(rng.random() < 0.14),
        tears=int(rng.random() < 0.10) + int(rng.random() < 0.08),
        height_px=float(rng.uniform(16.0, 58.0)) * scale,
        rows=int(rng.integers(2, 7)) if dysplastic else int(rng.integers(1, 3)),
        nucleus_long_px=float(rng.uniform(4.2, 6.8) if dysplastic else rng.uniform(3.2, 5.2)) * scale,
        nucleus_short_px=float(rng.uniform(2.0, 3.4)) * scale,
        nucleus_strength=float(rng.uniform(0.5, 1.0)),
        vesicular=float(rng.uniform(0.2, 0.75)) if cancer and rng.random() < 0.6 else float(rng.uniform(0.0, 0.3)),
        mucin=mucins[int(rng.choice(4, p=weights))],
        mucin_share=float(rng.uniform(0.35, 1.0)),
        mucin_pale=float(rng.uniform(0.25, 0.95)),
        cytoplasm_blue=float(rng.uniform(0.06, 0.34)),
        cytoplasm_pink=float(rng.uniform(0.25, 0.62)),
        halo=float(rng.uniform(0.0, 1.0)) if rng.random() < 0.4 else 0.0,
        collagen=float(rng.uniform(0.22, 0.62)),
        looseness=float(rng.uniform(0.1, 1.1)),
        fibrous=float(rng.uniform(0.0, 1.0)),
        fibre_px=float(rng.uniform(0.8, 2.4)) * scale,
        spindles=float(rng.uniform(0.3, 1.6)),
        lymphocytes=float(rng.uniform(0.01, 0.15) if rng.random() < 0.3 else rng.uniform(0.15, 1.0)),
        patchiness=float(rng.uniform(0.2, 1.4)),
        plasma_share=float(rng.uniform(0.0, 0.6)),
        red_cells=float(rng.exponential(0.5)),
        vessels=float(rng.exponential(1.0)),
        muscle=bool(rng.random() < 0.10),
        fat=bool(rng.random() < 0.05),
    )
