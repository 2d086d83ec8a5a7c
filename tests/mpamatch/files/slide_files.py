"""Small slides made by code: a TIFF pyramid, and an SVS with its label and macro picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from scipy import ndimage

APERIO = "Aperio Image Library v11.2.1 \r\n{w}x{h} [0,0 {w}x{h}] (256x256) JPEG/RGB Q=70|AppMag = 40{mpp}"


def tissue(width_px: int, height_px: int, seed: int = 1) -> np.ndarray:
    """White glass with a large pink piece of tissue, RGB uint8; smooth enough that levels can be compared."""
    rng = np.random.default_rng(seed)
    rough = ndimage.gaussian_filter(rng.normal(size=(height_px // 4 + 1, width_px // 4 + 1)), 6)
    rough = ndimage.zoom(rough / np.abs(rough).max(), 4, order=1)[:height_px, :width_px]
    image = np.full((height_px, width_px, 3), 243, np.uint8)
    inside = np.zeros((height_px, width_px), bool)
    inside[height_px // 16 : -height_px // 16, width_px // 16 : -width_px // 16] = True
    colour = np.array([190, 90, 150]) + 40 * rough[..., None] * np.array([1.0, 0.7, -0.5])
    image[inside] = np.clip(colour, 0, 255).astype(np.uint8)[inside]
    return image


def halved(image: np.ndarray) -> np.ndarray:
    """The mean of each 2 x 2 pixels; an odd rest is dropped, as writers do."""
    height, width = image.shape[0] // 2 * 2, image.shape[1] // 2 * 2
    even = image[:height, :width].astype(np.uint16)
    return ((even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2] + 2) // 4).astype(np.uint8)


def write_pyramid(path: Path, image: np.ndarray, *, levels: int = 3, um_per_px: float | None = 0.25) -> Path:
    """A generic tiled TIFF; lower levels are pages of reduced resolution."""
    scale: dict[str, Any] = {}
    if um_per_px is not None:
        scale = {"resolution": (1e4 / um_per_px,) * 2, "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for index in range(levels):
            file.write(
                image, tile=(256, 256), compression="deflate", photometric="rgb", subfiletype=int(index > 0), **scale
            )
            image, scale = halved(image), {}
    return path


def write_svs(
    path: Path, image: np.ndarray, *, um_per_px: float | None = 0.25, compression: Any = "jpeg", levels: int = 2
) -> Path:
    """Aperio's layout: level 0, thumbnail, further levels, label, macro picture."""
    height, width = image.shape[:2]
    mpp = "" if um_per_px is None else f"|MPP = {um_per_px}"
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    with tifffile.TiffWriter(path) as file:
        text = APERIO.format(w=width, h=height, mpp=mpp)
        file.write(image, tile=(256, 256), compression=compression, description=text, **options)
        file.write(image[:: height // 100, :: height // 100], compression="lzw", description=text, **options)
        smaller = image
        for _ in range(1, levels):
            smaller = halved(halved(smaller))
            file.write(smaller, tile=(256, 256), compression=compression, description=text, **options)
        red = np.broadcast_to(np.uint8([255, 0, 0]), (height // 6, width // 9, 3)).copy()
        file.write(red, compression="lzw", subfiletype=1, description="Aperio\r\nlabel 1x1", **options)
        file.write(red, compression="lzw", subfiletype=9, description="Aperio\r\nmacro 1x1", **options)
    return path
