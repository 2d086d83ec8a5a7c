"""Slides and plain images behind one protocol: size, levels, um per px, and windows of any level as RGB.

A slide is never read whole: tiles and the picture for finding tissue come window by window, from the level that is
nearest to what is asked for and not coarser. Whatever has no windows worth the name (PNG, JPEG, BMP, a TIFF without
tiles, a turned TIFF) is read whole under the pixel budget of :mod:`mpamatch.files.images`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from mpamatch.domain.pyramid import Level, choose_level, levels_of, plausible_um_per_px, window_at
from mpamatch.domain.tiling import Box, tile_size
from mpamatch.errors import BadInput
from mpamatch.files.images import DEFAULT_BUDGET_PX, identify, open_raster, orientation_of, read_image

if TYPE_CHECKING:
    from mpamatch.files.slide_by_tiffslide import TiffHeader

UInt8Array = npt.NDArray[np.uint8]

SLIDE_BUDGET_PX = 100_000_000_000
# Where a file has no small level, its picture for finding tissue is made from all pixels of the smallest it has.
SCAN_BUDGET_PX = 4_000_000_000
# A file that unpacks to more shows nothing: white, well packed, is some 350 RGB pixels to a byte. Reading it through
# for tissue would cost minutes that its size does not tell of.
MOST_PX_PER_BYTE = 1_000
_STRIP_PX = 16_000_000


class Slide(Protocol):
    """An open image file. ``levels[0]`` is the image itself; ``um_per_px`` of level 0, None where it is unknown."""

    levels: tuple[Level, ...]
    um_per_px: float | None

    def read(self, box: Box, level: int) -> UInt8Array:
        """A window of a level, in pixels of that level: RGB uint8 (H, W, 3). Raises BadInput."""
        ...


class WholeImage:
    """An image that is in memory as a whole: one level."""

    def __init__(self, pixels: UInt8Array, um_per_px: float | None = None) -> None:
        self._pixels = pixels
        self.levels = levels_of([(pixels.shape[1], pixels.shape[0])])
        self.um_per_px = um_per_px

    def read(self, box: Box, level: int) -> UInt8Array:
        return self._pixels[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px]


@contextmanager
def open_slide(path: Path, *, budget_px: int = DEFAULT_BUDGET_PX, name: str | None = None) -> Iterator[Slide]:
    """An image file, open for windows. TIFF pyramids through GDAL; SVS and what GDAL cannot decode through tiffslide.

    Raises BadInput naming the file as :func:`~mpamatch.files.images.read_image` does; ``budget_px`` bounds what is
    decoded at once, so that a plain image counts whole and a tiled one by its tiles.
    """
    # Here and not above: tiffslide brings zarr along, which the API, that opens no slide, need not load.
    from mpamatch.files.slide_by_rasterio import open_by_rasterio
    from mpamatch.files.slide_by_tiffslide import open_by_tiffslide, read_header

    item = name or str(path)
    _, driver = identify(path, item)
    header: TiffHeader | None = read_header(path, item) if driver == "GTiff" else None
    if header is not None and header.width_px * header.height_px > SLIDE_BUDGET_PX:
        problem = f"{header.width_px} x {header.height_px} px, more than any slide"
        raise BadInput(item, problem, "check the file, or cut it")
    if header is not None and (header.tiled or header.vendor is not None):
        _check_held(header, item, budget_px)
    if header is not None and header.vendor is not None:
        with open_by_tiffslide(path, header, item, budget_px=budget_px) as slide:
            yield slide
    elif header is not None and header.tiled and not _turned(path, item):
        with open_by_rasterio(path, header, item, budget_px=budget_px) as slide:
            yield slide
    else:
        um_per_px = None if header is None else plausible_um_per_px(header.um_per_px)
        yield WholeImage(read_image(path, budget_px=budget_px, name=item), um_per_px)


def _check_held(header: TiffHeader, item: str, budget_px: int) -> None:
    pixels = header.width_px * header.height_px
    if pixels > max(budget_px, MOST_PX_PER_BYTE * header.held_bytes):
        problem = f"{pixels:,} pixels in {header.held_bytes:,} bytes, so it shows nothing"
        raise BadInput(item, problem, "export or copy the file again")


def _turned(path: Path, item: str) -> bool:
    with open_raster(path, budget_px=None, name=item) as (dataset, _):
        return orientation_of(dataset, path) != 1


def slide_size(slide: Slide) -> tuple[int, int]:
    """(width_px, height_px) of level 0."""
    return slide.levels[0].width_px, slide.levels[0].height_px


def read_tile(slide: Slide, box: Box, scale: float) -> UInt8Array:
    """A box of level 0 at ``scale`` level-0 pixels per pixel, RGB uint8; its size is :func:`tile_size`.

    Read from the nearest finer level. A whole ratio between the two is averaged, any other resampled with a filter.
    """
    level = choose_level(slide.levels, scale)
    window, place = window_at(slide.levels[level], box)
    return resampled(slide.read(window, level), tile_size(box, scale), place)


def resampled(
    pixels: UInt8Array, size_px: tuple[int, int], place: tuple[float, float, float, float] | None = None
) -> UInt8Array:
    """The part ``place`` (left, top, right, bottom; the whole when None) of RGB pixels at another size."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = place or (0.0, 0.0, float(width), float(height))
    if size_px == (width, height) and (left, top, right, bottom) == (0, 0, width, height):
        return np.ascontiguousarray(pixels)
    ratios = ((right - left) / size_px[0], (bottom - top) / size_px[1])
    whole = all(abs(r - round(r)) < 1e-6 for r in ratios)
    method = Image.Resampling.BOX if whole else Image.Resampling.BILINEAR
    # Pillow widens the filter when it shrinks, so that bilinear does not alias.
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(size_px, method, (left, top, right, bottom)))


def overview(slide: Slide, side_px: int, item: str) -> UInt8Array:
    """The whole slide with its longer side about ``side_px`` (never enlarged), RGB uint8, read strip by strip.

    From the smallest level that is large enough. Raises BadInput where that one is too large to be read through.
    """
    large = [i for i, level in enumerate(slide.levels) if max(level.width_px, level.height_px) >= side_px]
    index = max(large, key=lambda i: slide.levels[i].factor, default=0)
    level = slide.levels[index]
    if level.width_px * level.height_px > SCAN_BUDGET_PX:
        problem = f"its smallest usable level has {level.width_px} x {level.height_px} px"
        raise BadInput(item, problem, "save it as a pyramid with smaller levels")
    step = max(1, round(max(level.width_px, level.height_px) / side_px))
    rows = max(step, _STRIP_PX // level.width_px // step * step)
    width = max(1, level.width_px // step)
    strips: list[UInt8Array] = []
    for y in range(0, level.height_px, rows):
        height = min(rows, level.height_px - y)
        if height < step and strips:
            break
        strip = slide.read(Box(0, y, level.width_px, height), index)
        strips.append(_shrunk(strip, step, width))
    return np.concatenate(strips)


def _shrunk(strip: UInt8Array, step: int, width: int) -> UInt8Array:
    """The mean of each ``step`` x ``step`` pixels; an odd rest on the right and below is left out."""
    if step == 1:
        return strip
    height = strip.shape[0] // step
    if height == 0 or strip.shape[1] < step:
        return resampled(strip, (width, max(1, height)))
    return resampled(np.ascontiguousarray(strip[: height * step, : width * step]), (width, height))
