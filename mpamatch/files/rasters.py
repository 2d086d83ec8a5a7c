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
