"""Image files to RGB arrays and back, reading only what is safe to read. Knows nothing of classes or masks.

GDAL opens far more than images: a ``.tif`` may hold VRT XML that points anywhere, and a path may name a URL.
So the order is fixed: a local regular file, its magic bytes, one named driver, limits, and only then pixels.
"""

from __future__ import annotations

import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image, TiffImagePlugin
from rasterio._err import CPLE_BaseError
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile
from rasterio.windows import Window

from mpamatch.domain.pyramid import same_picture
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput

UInt8Array = npt.NDArray[np.uint8]

DEFAULT_BUDGET_PX = 100_000_000
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".svs", ".ndpi", ".scn"})

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"II*\x00", "GTiff"),
    (b"MM\x00*", "GTiff"),
    (b"II+\x00", "GTiff"),
    (b"MM\x00+", "GTiff"),
    (b"BM", "BMP"),
)
# rasterio lets some of GDAL's own errors through: those of a directory that is found missing while pixels are read.
GDAL_ERRORS = (RasterioError, CPLE_BaseError)
_MAX_BANDS = 5
_REMEDY_FORMAT = "give PNG, JPEG, TIFF or BMP"
_REMEDY_DAMAGED = "export or copy the file again"

_GDAL_OPTIONS: dict[str, Any] = {
    # Files beside the image (.aux.xml, .ovr, .msk, world files) must not change what is read.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    # A JPEG cut short is otherwise filled with grey and passes as an image.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "YES",
    # GDAL's fast path decodes a PNG cut short to garbage without an error; the slow one says so (8 against 3 ms/Mpx).
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
}


def read_image(source: Path | bytes, *, budget_px: int = DEFAULT_BUDGET_PX, name: str | None = None) -> UInt8Array:
    """The whole image as RGB, uint8 (H, W, 3), upright.

    Palettes are expanded, 1-bit and 16-bit samples scaled by their full range (never by the image's own minimum
    and maximum), grey repeated, transparency laid on white, CMYK converted, the EXIF orientation of JPEG and TIFF
    applied. Of a TIFF with several pages the first is read. ``name`` stands for the image in messages.

    Raises BadInput naming the file: missing, not an image, damaged, more than ``budget_px`` pixels.
    """
    with open_raster(source, budget_px=budget_px, name=name) as (dataset, item):
        _check_budget(dataset.width * dataset.height, budget_px, item)
        image = read_rgb(dataset, item)
        return np.ascontiguousarray(_upright(image, orientation_of(dataset, source)))


def read_window(
    source: Path | bytes,
    box: Box,
    *,
    out_width_px: int | None = None,
    out_height_px: int | None = None,
    budget_px: int = DEFAULT_BUDGET_PX,
    name: str | None = None,
) -> UInt8Array:
    """Part of an image, RGB uint8 (out_height_px, out_width_px, 3); the size defaults to the box's own.

    Only tiled TIFF has random access; PNG, JPEG and BMP decode every row above the window, so their whole size
    counts against ``budget_px``. Smaller outputs use overviews where there are any, and average otherwise.

    Raises BadInput as :func:`read_image`, and for a box that is not inside the image.
    """
    with open_raster(source, budget_px=budget_px, name=name) as (dataset, item):
        turned = orientation_of(dataset, source)
        width, height = _upright_size(dataset, turned)
        if box.x_px < 0 or box.y_px < 0 or box.x_px + box.width_px > width or box.y_px + box.height_px > height:
            raise BadInput(item, f"{box} is not inside {width} x {height} px", "tile the image again")
        out_size = (out_width_px or box.width_px, out_height_px or box.height_px)
        _check_budget(out_size[0] * out_size[1], budget_px, item)
        if turned != 1:
            _check_budget(width * height, budget_px, item)
            whole = _upright(read_rgb(dataset, item), turned)
            part = whole[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px]
            return _resized(np.ascontiguousarray(part), out_size)
        window = Window(box.x_px, box.y_px, box.width_px, box.height_px)
        if out_size != (box.width_px, box.height_px) and _strange_overviews(dataset, source):
            _check_budget(box.area_px, budget_px, item)
            return _resized(read_rgb(dataset, item, window), out_size)
        return read_rgb(dataset, item, window, out_size)


def image_size(source: Path | bytes, *, budget_px: int | None = None, name: str | None = None) -> tuple[int, int]:
    """(width_px, height_px) from the header, after the EXIF orientation. Reads no pixel. Raises BadInput."""
    with open_raster(source, budget_px=budget_px, name=name) as (dataset, _):
        return _upright_size(dataset, orientation_of(dataset, source))


def encode_png(image: UInt8Array) -> bytes:
    """RGB uint8 (H, W, 3) or grey uint8 (H, W) as PNG, at the fastest compression that still compresses."""
    if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)):
        raise ValueError(f"uint8 (H, W) or (H, W, 3) is needed, got {image.dtype} {image.shape}")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@contextmanager
def open_raster(
    source: Path | bytes,
    *,
    budget_px: int | None = DEFAULT_BUDGET_PX,
    name: str | None = None,
    overview: int | None = None,
) -> Iterator[tuple[DatasetReader, str]]:
    """An open data set with its name for messages; whatever GDAL says inside the block becomes BadInput.

    Checked here: what the file is, sample type, bands, and that no unit that GDAL must decode at once (a TIFF's tile,
    the whole of any other format) exceeds ``budget_px``. ``overview``: that overview of a TIFF instead of its level 0.
    """
    item = name or (str(source) if isinstance(source, Path) else "image bytes")
    target, driver = identify(source, item)
    options: dict[str, Any] = {} if overview is None else {"overview_level": overview}
    try:
        with warnings.catch_warnings(), rasterio.Env(**_GDAL_OPTIONS):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            if isinstance(target, bytes):
                with MemoryFile(target) as memory, memory.open(driver=driver, **options) as dataset:
                    _check_header(dataset, item, budget_px)
                    yield dataset, item
            else:
                with rasterio.open(target, driver=driver, **options) as dataset:
                    _check_header(dataset, item, budget_px)
                    yield dataset, item
    except (*GDAL_ERRORS, UnicodeEncodeError) as error:
        raise BadInput(item, f"damaged or cut short ({_first_cause(error)})", _REMEDY_DAMAGED) from error


def _first_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    # GDAL's name for bytes in memory differs each time and tells nobody anything.
    return " ".join(re.sub(r"'?/vsimem/[^\s']+'?", "the file", str(error)).split())[:160]


def identify(source: Path | bytes, item: str) -> tuple[Path | bytes, str]:
    """What to open and with which driver."""
    if isinstance(source, Path):
        if str(source).startswith("/vsi"):
            raise BadInput(item, "not a local file path", "give a file on this machine")
        path = source.absolute()
        try:
            if not path.exists():
                raise BadInput(item, "no such file", "check the path, or restore the file")
            if not path.is_file():
                raise BadInput(item, "not a regular file", "give an image file")
            with path.open("rb") as stream:
                head = stream.read(16)
        except (OSError, ValueError) as error:
            raise BadInput(item, f"cannot be read ({error})", "check the path and its permissions") from error
        target: Path | bytes = path
    else:
        head, target = source[:16], source
    if not head:
        raise BadInput(item, "empty (zero bytes)", _REMEDY_DAMAGED)
    for magic, driver in _MAGIC:
        if head.startswith(magic):
            return target, driver
    raise BadInput(item, "not an image by its first bytes", _REMEDY_FORMAT)


def _check_header(dataset: DatasetReader, item: str, budget_px: int | None) -> None:
    if dataset.width < 1 or dataset.height < 1:
        raise BadInput(item, "has no pixels", _REMEDY_DAMAGED)
    kinds = set(dataset.dtypes)
    if not kinds <= {"uint8", "uint16"} or len(kinds) != 1:
        raise BadInput(item, f"samples of type {', '.join(sorted(kinds))}", "save it with 8 or 16 bits a channel")
    if not 1 <= dataset.count <= _MAX_BANDS:
        raise BadInput(item, f"{dataset.count} channels", "save it as grey or RGB")
    if budget_px is None:
        return
    if dataset.driver != "GTiff":
        _check_budget(dataset.width * dataset.height, budget_px, item)
    elif any(rows * columns > budget_px for rows, columns in dataset.block_shapes):
        raise BadInput(item, f"internal tiles over {budget_px:,} pixels", "save it as a tiled TIFF with 256 px tiles")


def _check_budget(pixels: int, budget_px: int, item: str) -> None:
    if pixels > budget_px:
        problem = f"{pixels:,} pixels, more than the {budget_px:,} allowed at once"
        raise BadInput(item, problem, "cut it, reduce it, or raise the pixel budget")


def overview_sizes(dataset: DatasetReader, source: Path | bytes) -> tuple[tuple[int, int] | None, ...]:
    """(width_px, height_px) of each overview as GDAL numbers them, None for one that shows something else.

    In an SVS file GDAL takes the glass's label and the macro picture for overviews of the slide.
    """
    sizes: list[tuple[int, int] | None] = []
    for index in range(len(dataset.overviews(1)) if dataset.driver == "GTiff" else 0):
        with open_raster(source, budget_px=None, overview=index) as (small, _):
            size = (int(small.width), int(small.height))
            sizes.append(size if same_picture((dataset.width, dataset.height), size) else None)
    return tuple(sizes)


def _strange_overviews(dataset: DatasetReader, source: Path | bytes) -> bool:
    return None in overview_sizes(dataset, source)


def read_rgb(
    dataset: DatasetReader, item: str, window: Window | None = None, out_size: tuple[int, int] | None = None
) -> UInt8Array:
    """RGB uint8 (H, W, 3) of a window, resampled to ``out_size`` (width, height) where that is smaller or larger."""
    kinds = dataset.colorinterp
    palette = kinds[0] == ColorInterp.palette
    options: dict[str, Any] = {"window": window}
    resized = out_size is not None and window is not None and out_size != (window.width, window.height)
    # Palette indices cannot be averaged: read them at their own size, expand, and resize the colours.
    if resized and not palette and out_size is not None:
        options |= {"out_shape": (dataset.count, out_size[1], out_size[0]), "resampling": Resampling.average}
    bands = dataset.read(**options)
    if palette:
        colours, alpha = _expand_palette(dataset, bands[0])
    else:
        bands = _to_uint8(bands, _full_range(dataset))
        colours, alpha = _split_alpha(bands, kinds)
        if alpha is None and MaskFlags.per_dataset in dataset.mask_flag_enums[0]:
            mask_options = {key: value for key, value in options.items() if key == "window"}
            shape = options.get("out_shape")
            alpha = dataset.read_masks(1, **mask_options, **({"out_shape": shape[1:]} if shape else {}))
    image = _on_white(colours, alpha)
    return _resized(image, out_size) if resized and palette and out_size is not None else image


def _full_range(dataset: DatasetReader) -> int:
    bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    if bits is not None:
        return (1 << int(bits)) - 1
    return 255 if dataset.dtypes[0] == "uint8" else 65535


def _to_uint8(bands: npt.NDArray[Any], full: int) -> UInt8Array:
    if full == 255:
        return bands.astype(np.uint8, copy=False)
    scaled = np.minimum(bands, full).astype(np.float32) * np.float32(255.0 / full)
    return np.rint(scaled).astype(np.uint8)


def _expand_palette(dataset: DatasetReader, indices: npt.NDArray[Any]) -> tuple[UInt8Array, UInt8Array | None]:
    table = np.zeros((int(np.iinfo(indices.dtype).max) + 1, 4), np.uint8)
    for index, colour in dataset.colormap(1).items():
        table[index] = colour
    full = table[indices]
    opaque = bool((full[..., 3] == 255).all())
    return full[..., :3], None if opaque else full[..., 3]


def _split_alpha(bands: UInt8Array, kinds: tuple[ColorInterp, ...]) -> tuple[UInt8Array, UInt8Array | None]:
    """Colours (H, W, 3) and alpha (H, W) of plain bands; grey is repeated, surplus bands are left out."""
    alpha = bands[kinds.index(ColorInterp.alpha)] if ColorInterp.alpha in kinds else None
    shown = [band for band, kind in zip(bands, kinds, strict=True) if kind != ColorInterp.alpha]
    if kinds[:4] == (ColorInterp.cyan, ColorInterp.magenta, ColorInterp.yellow, ColorInterp.black):
        light = 255 - np.stack(shown[:3]).astype(np.uint16)
        return np.moveaxis((light * (255 - shown[3].astype(np.uint16)) // 255).astype(np.uint8), 0, -1), alpha
    chosen = shown[:3] if len(shown) >= 3 else [shown[0]] * 3
    return np.stack(chosen, axis=-1), alpha


def _on_white(colours: UInt8Array, alpha: UInt8Array | None) -> UInt8Array:
    if alpha is None:
        return colours
    weight = alpha.astype(np.uint32)[..., None]
    return ((colours * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)


def _resized(image: UInt8Array, size: tuple[int, int]) -> UInt8Array:
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BOX))


def orientation_of(dataset: DatasetReader, source: Path | bytes) -> int:
    """The EXIF orientation, 1 to 8. GDAL tells it for JPEG alone; PNG's is ignored, as most viewers do."""
    if dataset.driver == "JPEG":
        value = dataset.tags().get("EXIF_Orientation", "1")
        return int(value) if value in tuple("12345678") else 1
    if dataset.driver != "GTiff":
        return 1
    try:
        with _as_stream(source) as stream:
            header = stream.read(8)
            header += stream.read(8) if header[2] == 43 else b""
            directory = TiffImagePlugin.ImageFileDirectory_v2(header)
            stream.seek(directory.next)
            directory.load(stream)
            value = directory.get(TiffImagePlugin.ExifTags.Base.Orientation, 1)
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError):
        return 1
    return value if value in range(1, 9) else 1


def _as_stream(source: Path | bytes) -> BinaryIO:
    return open(source, "rb", buffering=0) if isinstance(source, os.PathLike) else io.BytesIO(source)


def _upright_size(dataset: DatasetReader, orientation: int) -> tuple[int, int]:
    if orientation >= 5:
        return int(dataset.height), int(dataset.width)
    return int(dataset.width), int(dataset.height)


def _upright(image: UInt8Array, orientation: int) -> UInt8Array:
    """Undo the EXIF orientation: flips and turns for the values 2 to 8."""
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        image = image[:, ::-1]
    if orientation in (3, 4, 7, 8):
        image = image[::-1]
    return image
