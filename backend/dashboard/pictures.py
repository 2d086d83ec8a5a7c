"""Pictures of tiles for the pages: smaller ones, and outlines of class maps to lay over them. PIL and numpy only."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mpamatch.domain.classes import IGNORE
from mpamatch.errors import BadInput
from mpamatch.files.rasters import RASTER_BUDGET_PX, UInt8Array

THUMBNAIL_PX = 320
_LINE_SHARE = 1 / 400
_DASH_PX = 6
_UNSURE = (40, 255, 190)
_OPAQUE = 230.0


def thumbnail(png: bytes, *, side_px: int = THUMBNAIL_PX) -> bytes:
    """A JPEG that fits into a square. Raises BadInput for what is no PNG."""
    try:
        image = Image.open(io.BytesIO(png), formats=["PNG"])
        if image.width * image.height > RASTER_BUDGET_PX:
            raise BadInput("picture", f"{image.width} x {image.height} px", "too large to make smaller here")
        small = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput("picture", f"damaged ({error})", "register the image again") from error
    small.thumbnail((side_px, side_px), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=82)
    return buffer.getvalue()


def outlines(class_map: UInt8Array, colours: Sequence[str], *, dashed: bool) -> bytes:
    """A transparent PNG (H, W) with the inner rim of each foreground area in its class's colour.

    Dashed lines can be told from whole ones without telling colours apart.
    """
    rim = _rim(class_map, thickness=max(1, round(max(class_map.shape) * _LINE_SHARE)))
    if dashed:
        rows, columns = np.ogrid[: class_map.shape[0], : class_map.shape[1]]
        dash = max(_DASH_PX, max(class_map.shape) // 60)
        rim &= ((rows + columns) // dash) % 2 == 0
    table = np.zeros((256, 4), dtype=np.uint8)
    for number, colour in enumerate(colours):
        table[number] = (*rgb(colour), 255)
    drawn = table[class_map]
    drawn[~rim] = 0
    buffer = io.BytesIO()
    Image.fromarray(drawn, "RGBA").save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def heat(confidence: UInt8Array, *, lowest: float, side_px: int | None = None) -> bytes:
    """A transparent PNG (H, W): clear where confidence (0..255) is 1, bright turquoise the nearer it is to ``lowest``.

    With ``side_px`` it fits into a square, as means.

    Stained tissue is pink, purple and dark, never that; how much shows through tells the steps, whatever colours one
    can tell apart.
    """
    if side_px is not None:
        smaller = Image.fromarray(confidence)
        smaller.thumbnail((side_px, side_px), Image.Resampling.BOX, reducing_gap=None)
        confidence = np.asarray(smaller)
    unsure = np.clip((1 - np.arange(256) / 255) / (1 - lowest), 0, 1)
    table = np.empty((256, 4), dtype=np.uint8)
    table[:, :3] = _UNSURE
    table[:, 3] = np.round(_OPAQUE * unsure**0.8)
    buffer = io.BytesIO()
    Image.fromarray(table[confidence], "RGBA").save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` as numbers; what is none is drawn black."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", colour):
        return (0, 0, 0)
    return (int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16))


def _rim(class_map: UInt8Array, *, thickness: int) -> np.ndarray:
    """Foreground pixels within ``thickness`` of a pixel of another value; the border of the picture is no rim."""
    foreground = (class_map > 0) & (class_map != IGNORE)
    rim = np.zeros(class_map.shape, dtype=bool)
    for step in range(1, thickness + 1):
        for axis in (0, 1):
            if class_map.shape[axis] <= step:
                continue
            ahead = [slice(None), slice(None)]
            behind = [slice(None), slice(None)]
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            differs = class_map[tuple(ahead)] != class_map[tuple(behind)]
            rim[tuple(ahead)] |= differs
            rim[tuple(behind)] |= differs
    return rim & foreground
