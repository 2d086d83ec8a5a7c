"""A simulation's train images: pixels and tissue for everybody, masks for the oracle alone. Read when asked for."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from mpamatch.domain.glass import tissue_area
from mpamatch.domain.masks import Mask
from mpamatch.domain.pool import coded
from mpamatch.domain.tiling import Box
from mpamatch.experiments.protocol import Division
from mpamatch.files.images import image_size, read_image

_KEPT_IMAGES = 64
"""Of a large pool not everything is kept in memory."""


class HiddenPool:
    """Images by their number in the train list. Reading raises what the data set's files do."""

    def __init__(self, division: Division) -> None:
        self._division = division
        self.sizes_px = [image_size(item.image) for item in division.train]
        _, self.groups = coded([item.group for item in division.train])
        self.image = lru_cache(_KEPT_IMAGES)(self._read_image)
        self.truth = lru_cache(_KEPT_IMAGES)(self._read_truth)
        self.tissue = lru_cache(None)(self._find_tissue)

    def __len__(self) -> int:
        return len(self.sizes_px)

    @property
    def area_px(self) -> int:
        """Of all images together."""
        return sum(width * height for width, height in self.sizes_px)

    def whole(self, tile: int) -> Box:
        """The box of a whole image."""
        return Box(0, 0, *self.sizes_px[tile])

    def _read_image(self, tile: int) -> npt.NDArray[np.uint8]:
        return read_image(self._division.train[tile].image)

    def _read_truth(self, tile: int) -> Mask:
        return self._division.data.read_mask(self._division.train[tile])

    def _find_tissue(self, tile: int) -> npt.NDArray[np.bool_]:
        """In cells that cover the image evenly, bool (h, w)."""
        return tissue_area(self.image(tile))
