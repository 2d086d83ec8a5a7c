"""What has been laid on a tile so far: optical densities of haematoxylin, eosin and blood, filled in place."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpamatch.datasets.drawn.textures import BoolArray, FloatArray


@dataclass
class Density:
    """Amounts of each dye, float32 (H, W); 1 is about as much as a dark nucleus (or a red cell) holds."""

    haematoxylin: FloatArray
    eosin: FloatArray
    blood: FloatArray

    @property
    def size_px(self) -> int:
        return int(self.eosin.shape[0])

    def nuclei(self, cover: FloatArray, strength: float, chromatin: FloatArray) -> None:
        """Haematoxylin with coarse chromatin; nuclei hide part of what lies below them."""
        ink = cover * (strength * (1.0 + 0.22 * chromatin) - 0.6 * self.haematoxylin)
        self.haematoxylin += np.where(cover > 0, np.maximum(ink, -0.3 * self.haematoxylin), 0.0)
        self.eosin *= 1.0 - 0.35 * cover

    def bare(self, where: BoolArray) -> None:
        """Nothing but slide."""
        for dye in (self.haematoxylin, self.eosin, self.blood):
            dye[where] = 0.0
