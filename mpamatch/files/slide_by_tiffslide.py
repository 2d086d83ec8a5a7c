"""SVS and other scanners' TIFF through tiffslide, and what a TIFF's first directory says before anything is decoded.

GDAL reads many of these files too, but takes the label and the macro picture of the glass for overviews, and does not
know JPEG 2000 in TIFF. The header is checked here first: sizes, samples, tiles that lie inside the file.
"""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tifffile
import tiffslide

from mpamatch.domain.pyramid import levels_of, plausible_um_per_px
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput

UInt8Array = npt.NDArray[np.uint8]

# Aperio's JPEG 2000 in two forms, and the plain one: GDAL has no decoder for them inside a TIFF.
_JPEG_2000 = {33003, 33004, 33005, 34712}
# Half a centimetre of glass at 20 levels is more than any scanner writes.
_MOST_PAGES = 1000
_REMEDY = "export or copy the file again"
# What a decoder says of a file that is wrong: tifffile, zarr and imagecodecs raise these and children of theirs.
_WRONG = (OSError, ValueError, RuntimeError, KeyError, IndexError, TypeError, struct.error, NotImplementedError)


@dataclass(frozen=True)
class TiffHeader:
    """What the first directory says. ``vendor`` where tiffslide must read it; ``um_per_px`` as written, not judged.

    ``held_bytes``: of its tiles or strips as they are in the file; one that is not written holds none.
    """

    width_px: int
    height_px: int
    tiled: bool
    vendor: str | None
    um_per_px: float | None
    held_bytes: int


def read_header(path: Path, item: str) -> TiffHeader:
    """Raises BadInput for what is no TIFF inside, and for a tile or strip that the file does not hold."""
    with _quiet(), _said(item), tifffile.TiffFile(path) as file:
        page = file.pages.first
        vendor = "svs" if file.is_svs else "ndpi" if file.is_ndpi else "scn" if file.is_scn else None
        if vendor is None and int(page.compression) in _JPEG_2000:
            vendor = "jpeg2000"
        return TiffHeader(
            width_px=int(page.imagewidth),
            height_px=int(page.imagelength),
            tiled=bool(page.is_tiled),
            vendor=vendor,
            um_per_px=_resolution_um(page),
            held_bytes=sum(page.databytecounts),
        )


def _resolution_um(page: Any) -> float | None:
    """The side of a pixel by the resolution tags; None without a unit, or where pixels are not square."""
    unit = {2: 25_400.0, 3: 10_000.0}.get(int(page.resolutionunit or 0))
    tags = [page.tags.get(name) for name in ("XResolution", "YResolution")]
    if unit is None or None in tags:
        return None
    x, y = (unit * tag.value[1] / tag.value[0] if tag.value[0] else 0.0 for tag in tags)
    return x if x > 0 and abs(x - y) <= 0.02 * x else None


class TiffSlide:
    """An open file of tiffslide's."""

    def __init__(self, slide: tiffslide.TiffSlide, item: str, um_per_px: float | None, budget_px: int) -> None:
        self._slide, self._item, self._budget_px = slide, item, budget_px
        self.levels = levels_of([(int(w), int(h)) for w, h in slide.level_dimensions])
        self.um_per_px = um_per_px

    def read(self, box: Box, level: int) -> UInt8Array:
        if box.area_px > self._budget_px:
            raise BadInput(self._item, f"a window of {box.area_px:,} pixels", "raise the pixel budget")
        rows = slice(box.y_px, box.y_px + box.height_px)
        columns = slice(box.x_px, box.x_px + box.width_px)
        with _quiet(), _said(self._item):
            group: Any = self._slide.zarr_group
            # By the level's own pixels: tiffslide's read_region takes level-0 places and rounds them.
            found = np.asarray(group[str(level)][rows, columns])
        if found.shape[:2] != (box.height_px, box.width_px):
            raise BadInput(self._item, "damaged or cut short (a window is missing)", _REMEDY)
        if found.ndim == 2:
            found = np.repeat(found[..., None], 3, axis=2)
        return np.ascontiguousarray(found[..., :3])


@contextmanager
def open_by_tiffslide(path: Path, header: TiffHeader, item: str, *, budget_px: int) -> Iterator[TiffSlide]:
    """Raises BadInput: not 8 bits in one, three or four channels; tiles over ``budget_px``; tiles beyond the file."""
    with _quiet(), _said(item):
        slide = tiffslide.TiffSlide(path)
    try:
        with _quiet(), _said(item), tifffile.TiffFile(path) as file:
            _check_pages(file, path.stat().st_size, item, budget_px)
        with _said(item):
            if slide.properties["tiffslide.series-axes"] not in ("YXS", "YX"):
                raise BadInput(item, "channels in planes of their own", "save it as a tiled TIFF with RGB pixels")
            values = [slide.properties.get(f"tiffslide.mpp-{axis}") for axis in "xy"]
        yield TiffSlide(slide, item, _um_per_px(values, header), budget_px)
    finally:
        slide.close()


def _um_per_px(values: list[Any], header: TiffHeader) -> float | None:
    x, y = (float(v) if isinstance(v, int | float) and v > 0 else None for v in values)
    if x is not None and y is not None and abs(x - y) <= 0.02 * x:
        return plausible_um_per_px(x)
    return plausible_um_per_px(header.um_per_px)


def _check_pages(file: tifffile.TiffFile, size_bytes: int, item: str, budget_px: int) -> None:
    if len(file.pages) > _MOST_PAGES:
        raise BadInput(item, f"{len(file.pages)} pages", "give a slide with one picture")
    for page in (level.keyframe for level in file.series[0].levels):
        if page.dtype != np.uint8 or page.samplesperpixel not in (1, 3, 4):
            problem = f"{page.samplesperpixel} channels of {page.dtype}"
            raise BadInput(item, problem, "save it as RGB with 8 bits a channel")
        unit = page.tilewidth * page.tilelength if page.is_tiled else page.imagewidth * (page.rowsperstrip or 1)
        if not 0 < unit <= budget_px:
            problem = f"internal tiles over {budget_px:,} pixels"
            raise BadInput(item, problem, "save it as a tiled TIFF with 256 px tiles")
        ends = (o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=False))
        # tifffile takes tiles that the file does not hold for white ones.
        missing = len({len(page.dataoffsets), len(page.databytecounts), math.prod(page.chunked)}) > 1
        if missing or max(ends, default=0) > size_bytes:
            raise BadInput(item, "damaged or cut short (tiles beyond its end)", _REMEDY)


@contextmanager
def _said(item: str) -> Iterator[None]:
    """What a decoder says in the block becomes BadInput."""
    try:
        yield
    except BadInput:
        raise
    except _WRONG as error:
        text = " ".join(f"{error}".split())[:160] or type(error).__name__
        raise BadInput(item, f"damaged or cut short ({text})", _REMEDY) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without tifffile's own log: what matters of it is in the errors."""
    log = logging.getLogger("tifffile")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(before)
