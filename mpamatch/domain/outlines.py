"""Masks as outlines and back: polygons along the edges of pixels, in the pixels of the tile or of its image.

Pure; of rasterio it uses ``features`` alone. An outline that follows pixel edges comes back as the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rasterio import Affine, features
from shapely import affinity
from shapely.geometry import MultiPolygon, Polygon, box, mapping, shape
from shapely.geometry.base import BaseGeometry

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.masks import Mask, unsupervised
from mpamatch.domain.tiling import Box


@dataclass(frozen=True)
class Outlined:
    """One connected area of a class, as a polygon with holes."""

    class_id: int
    polygon: Polygon


def outlines(mask: Mask) -> tuple[Outlined, ...]:
    """Every connected area (over edges, not corners) of each class but background and 255, in the mask's pixels."""
    wanted = (mask != 0) & (mask != IGNORE)
    found = features.shapes(mask, mask=wanted, connectivity=4)
    return tuple(Outlined(int(value), shape(geometry)) for geometry, value in found)


def reviewed_area(mask: Mask) -> BaseGeometry | None:
    """Where a mask says something, in its own pixels; None where it says nothing."""
    seen = (mask != IGNORE).astype(np.uint8)
    if not seen.any():
        return None
    if seen.all():
        return box(0, 0, mask.shape[1], mask.shape[0])
    parts = [shape(geometry) for geometry, _ in features.shapes(seen, mask=seen.astype(bool), connectivity=4)]
    return parts[0] if len(parts) == 1 else MultiPolygon(parts)


@dataclass(frozen=True)
class TileFrame:
    """A tile's place: its box in level-0 pixels and the size (width, height) of its picture."""

    box: Box
    size_px: tuple[int, int]

    @property
    def factors(self) -> tuple[float, float]:
        """Level-0 pixels per pixel of the tile, horizontally and vertically."""
        return self.box.width_px / self.size_px[0], self.box.height_px / self.size_px[1]

    @property
    def outline(self) -> Polygon:
        """The tile in level-0 pixels."""
        return box(self.box.x_px, self.box.y_px, self.box.x_px + self.box.width_px, self.box.y_px + self.box.height_px)

    def to_level0(self, geometry: BaseGeometry) -> BaseGeometry:
        """From the tile's pixels to level 0."""
        x, y = self.factors
        return affinity.affine_transform(geometry, [x, 0, 0, y, self.box.x_px, self.box.y_px])

    def painted(self, shapes: Sequence[tuple[BaseGeometry, int]]) -> Mask:
        """Class ids where the centre of a pixel lies in a geometry of level 0, 255 elsewhere; later over earlier."""
        width, height = self.size_px
        if not shapes:
            return unsupervised(width, height)
        x, y = self.factors
        return features.rasterize(
            [(mapping(geometry), class_id) for geometry, class_id in shapes],
            out_shape=(height, width),
            fill=IGNORE,
            dtype="uint8",
            transform=Affine(x, 0, self.box.x_px, 0, y, self.box.y_px),
        )
