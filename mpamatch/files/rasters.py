"""The lossless rasters that the system keeps as grey PNG: class ids and confidences in 8 bits, objects in 16.

Knows no rasterio: the API reads stored predictions with this, and stays light.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from mpamatch.errors import BadInput

UInt8Array = npt.NDArray[np.uint8]

RASTER_BUDGET_PX = 100_000_000


def encode_raster(raster: UInt8Array) -> bytes:
    """uint8 (H, W) as 8-bit grey PNG, lossless; the same array gives the same bytes."""
    buffer = io.BytesIO()
    Image.fromarray(checked(raster)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def decode_raster(data: bytes, *, budget_px: int = RASTER_BUDGET_PX) -> UInt8Array:
    """The inverse of :func:`encode_raster`. Raises BadInput for anything else than an 8-bit grey PNG."""
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        if image.mode != "L" or image.width * image.height > budget_px:
            raise BadInput("raster", f"mode {image.mode}, {image.width} x {image.height} px", "8-bit grey is needed")
        return np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput("raster", f"damaged ({error})", "make the prediction again") from error


def decode_class_ids(data: bytes, *, size_px: tuple[int, int]) -> UInt8Array:
    """Class ids of a mask that somebody sent, uint8 (H, W): the values of a grey PNG, the indices of an indexed one.

    ``size_px``: the (width, height) that it must have; another one is refused before its pixels are read. Raises
    BadInput for anything else; colours are never class ids.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=["PNG"])
        if image.mode not in ("L", "P"):
            raise BadInput("mask", f"has the mode {image.mode}", "send class ids as an indexed or 8-bit grey PNG")
        if image.size != size_px:
            problem = f"has {image.width} x {image.height} px, its picture {size_px[0]} x {size_px[1]}"
            raise BadInput("mask", problem, "send it at the size of the picture")
        return np.array(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput("mask", f"is damaged or no PNG ({error})", "send an indexed or 8-bit grey PNG") from error


def encode_instances(instances: npt.NDArray[np.uint16]) -> bytes:
    """uint16 (H, W) as 16-bit grey PNG, lossless: the number of the object that each pixel belongs to."""
    if instances.dtype != np.uint16 or instances.ndim != 2:
        raise ValueError(f"uint16 (H, W) is needed, got {instances.dtype} {instances.shape}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(instances)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def checked(raster: UInt8Array) -> UInt8Array:
    """The array itself, contiguous. Raises ValueError for anything but uint8 (H, W): a mistake of the program."""
    if raster.dtype != np.uint8 or raster.ndim != 2:
        raise ValueError(f"uint8 (H, W) is needed, got {raster.dtype} {raster.shape}")
    return np.ascontiguousarray(raster)
