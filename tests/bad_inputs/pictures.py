"""Picture files that something is wrong or odd with, each made by code, with what registering it must come to.

``line``: the one line that it gives, ``{path}`` standing for the file; None where it is taken. ``shown``: the pixels
of its tile, where it is taken. A new way to be broken is one more row of ``PICTURES``.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from PIL import Image

SIDE = 48
Pixels = npt.NDArray[np.uint8]
DAMAGED = "; export or copy the file again"
FORMAT = "{path}: not an image by its first bytes; give PNG, JPEG, TIFF or BMP"
OVER = ", more than the 100,000,000 allowed at once; cut it, reduce it, or raise the pixel budget"


@dataclass(frozen=True)
class BadPicture:
    """One file, by its name in the folder, and how it is made there."""

    file: str
    make: Callable[[Path], Any]
    line: str | None = None
    shown: Callable[[], Pixels] | None = None
    not_for_root: bool = False

    @property
    def taken(self) -> bool:
        return self.shown is not None

    def gives(self, line: str, path: Path) -> bool:
        """Whether a line is the one that this picture must give; ``(...)`` stands for the decoder's own words."""
        assert self.line is not None
        shown = str(path) if str(path).isprintable() else ascii(str(path))
        begin, dots, end = self.line.replace("{path}", shown).partition("(...)")
        return line.startswith(f"{begin}(") and line.endswith(f"){end}") if dots else line == begin


def tissue(seed: int = 1, side: int = SIDE) -> Pixels:
    """An RGB picture without any two equal neighbours, so that a shift or a turn shows."""
    return np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(seed: int = 1) -> bytes:
    return encoded(Image.fromarray(tissue(seed)), "PNG")


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_header(width: int, height: int, rows: bytes = b"") -> bytes:
    """A grey PNG whose header says any size, whatever follows."""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(rows, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _content(make: Callable[[], bytes]) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(make())


def _raster(array: npt.NDArray[Any], **options: Any) -> Callable[[Path], Any]:
    def make(path: Path) -> None:
        count, height, width = array.shape
        profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": array.dtype}
        with rasterio.open(path, "w", **profile, **options) as out:
            out.write(array)

    return make


def _sparse_tiff(path: Path) -> None:
    """60,000 x 60,000 pixels in a few kilobytes: empty blocks are not even written."""
    profile = {"driver": "GTiff", "count": 1, "height": 60_000, "width": 60_000, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, tiled=True, compress="deflate", SPARSE_OK=True):
        pass


def _huge_jpeg() -> bytes:
    """A whole small JPEG whose frame header says 65,000 x 65,000."""
    data = bytearray(encoded(Image.fromarray(tissue()), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def _turned_jpeg() -> bytes:
    image = Image.fromarray(_quarters())
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, "JPEG", quality=100, subsampling=0, exif=exif)


def _jpeg() -> bytes:
    return encoded(Image.fromarray(_quarters()), "JPEG", quality=100, subsampling=0)


def _quarters() -> Pixels:
    """Four flat quarters: what a JPEG keeps to the last bit, nearly."""
    picture = np.zeros((SIDE, SIDE, 3), np.uint8)
    half = SIDE // 2
    picture[:half, :half], picture[:half, half:] = (200, 40, 40), (40, 200, 40)
    picture[half:, :half], picture[half:, half:] = (40, 40, 200), (200, 200, 40)
    return picture


def _text_bomb() -> bytes:
    """A whole PNG with a compressed text that unpacks to 64 MB."""
    packer = zlib.compressobj(9)
    text = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    data = png()
    return data[:33] + chunk(b"zTXt", b"Comment\0\0" + text) + data[33:]


def _loop_of_pages() -> bytes:
    """A TIFF whose first page says that the next page is itself."""
    data = bytearray(encoded(Image.fromarray(tissue()), "TIFF"))
    at = struct.unpack_from("<I", data, 4)[0]
    entries = struct.unpack_from("<H", data, at)[0]
    struct.pack_into("<I", data, at + 2 + 12 * entries, at)
    return bytes(data)


def _link_out(path: Path) -> None:
    outside = path.parent.parent / "outside.png"
    outside.write_bytes(png(99))
    path.symlink_to(outside)


def _locked(path: Path) -> None:
    path.write_bytes(png(98))
    path.chmod(0)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "inside.png").write_bytes(png(97))


def _alpha() -> Image.Image:
    image = np.dstack([tissue(), np.full((SIDE, SIDE), 255, np.uint8)])
    image[: SIDE // 2, :, 3] = 0
    return Image.fromarray(image)


def _alpha_shown() -> Pixels:
    shown = tissue()
    shown[: SIDE // 2] = 255
    return shown


def _ramp16() -> npt.NDArray[np.uint16]:
    return (np.arange(SIDE * SIDE, dtype=np.uint32) * 28).astype(np.uint16).reshape(SIDE, SIDE)


def _scaled(values: npt.NDArray[np.uint16]) -> Pixels:
    return np.rint(values / 257.0).astype(np.uint8)


def _grey(values: Pixels) -> Pixels:
    return np.repeat(values[..., None], 3, axis=2)


def _palette() -> Image.Image:
    image = Image.fromarray((np.arange(SIDE * SIDE) % 4).astype(np.uint8).reshape(SIDE, SIDE))
    image.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200, 9, 9, 9])
    return image


def _one_bit() -> Image.Image:
    return Image.fromarray(np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 3 == 0)


def _ink() -> Image.Image:
    return Image.fromarray(np.dstack([tissue(), np.full((SIDE, SIDE), 30, np.uint8)]), "CMYK")


def _ink_shown() -> Pixels:
    light = 255 - tissue().astype(np.uint16)
    return (light * (255 - 30) // 255).astype(np.uint8)


def _two_pages() -> bytes:
    return encoded(Image.fromarray(tissue()), "TIFF", save_all=True, append_images=[Image.fromarray(tissue(2, 8))])


def _vrt() -> bytes:
    return b'<VRTDataset rasterXSize="9" rasterYSize="9"><SourceFilename>/etc/passwd</SourceFilename></VRTDataset>'


def _bit_flipped() -> bytes:
    data = bytearray(png())
    data[len(data) // 2] ^= 1
    return bytes(data)


def _white() -> Pixels:
    return np.full((1, 1, 3), 255, np.uint8)


CUT = "{path}: damaged or cut short (...)" + DAMAGED
LEFT = "{path}: a link that leaves the folder; copy it in"

PICTURES = (
    # what cannot be read
    BadPicture("zero.png", _content(bytes), "{path}: empty (zero bytes)" + DAMAGED),
    BadPicture("text.png", _content(lambda: b"this is no picture"), FORMAT),
    BadPicture("page.jpg", _content(lambda: b"<!doctype html><title>502</title>"), FORMAT),
    BadPicture("drawing.png", _content(lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>"), FORMAT),
    BadPicture("moving.png", _content(lambda: encoded(Image.fromarray(tissue()), "GIF")), FORMAT),
    BadPicture("elsewhere.tif", _content(_vrt), FORMAT),
    BadPicture("cut.png", _content(lambda: png()[: len(png()) // 2]), CUT),
    BadPicture("cut.jpg", _content(lambda: encoded(Image.fromarray(tissue()), "JPEG")[:1500]), CUT),
    BadPicture("cut.tif", _content(lambda: encoded(Image.fromarray(tissue()), "TIFF")[:3000]), CUT),
    BadPicture("flipped.png", _content(_bit_flipped), CUT),
    BadPicture("header.bmp", _content(lambda: b"BM" + bytes(60)), CUT),
    BadPicture("signature.png", _content(lambda: png()[:8]), CUT),
    # what would cost memory or time
    BadPicture("huge.png", _content(lambda: png_of_header(200_000, 200_000)), "{path}: 40,000,000,000 pixels" + OVER),
    BadPicture(
        "bomb.png",
        _content(lambda: png_of_header(10_100, 10_100, bytes(10_101 * 10_100))),
        "{path}: 102,010,000 pixels" + OVER,
    ),
    BadPicture("huge.jpg", _content(_huge_jpeg), "{path}: 4,225,000,000 pixels" + OVER),
    BadPicture("sparse.tif", _sparse_tiff, "{path}: 3,600,000,000 pixels in 0 bytes, so it shows nothing" + DAMAGED),
    BadPicture("words.png", _content(_text_bomb), shown=tissue),
    BadPicture("loop.tif", _content(_loop_of_pages), shown=tissue),
    # samples that are no picture's
    BadPicture(
        "float.tif",
        _raster(np.zeros((1, SIDE, SIDE), np.float32)),
        "{path}: samples of type float32; save it with 8 or 16 bits a channel",
    ),
    BadPicture("seven.tif", _raster(np.zeros((7, SIDE, SIDE), np.uint8)), "{path}: 7 channels; save it as grey or RGB"),
    # places and names
    BadPicture("pipe.png", os.mkfifo, "{path}: is no regular file; give an image file"),
    BadPicture("link.png", _link_out, LEFT),
    BadPicture(
        "dangling.png",
        lambda path: path.symlink_to(path.parent / "nothing.png"),
        "{path}: a link to nothing; remove it, or restore what it points to",
    ),
    BadPicture(
        "locked.png",
        _locked,
        "{path}: cannot be read (Permission denied); check that it exists and may be read",
        not_for_root=True,
    ),
    BadPicture("two\nlines.png", _content(png), "{path}: a name that is no plain text; rename it"),
    BadPicture("folder.png", _folder, shown=lambda: tissue(97)),
    BadPicture('it\'s a "tile" & <b>.png', _content(lambda: png(21)), shown=lambda: tissue(21)),
    BadPicture("組織 Ström.png", _content(lambda: png(22)), shown=lambda: tissue(22)),
    BadPicture("up..%2F..%2Fetc%2Fpasswd.png", _content(lambda: png(23)), shown=lambda: tissue(23)),
    BadPicture("up\\..\\windows.png", _content(lambda: png(24)), shown=lambda: tissue(24)),
    # odd, but pictures
    BadPicture("jpeg-inside.png", _content(_jpeg), shown=_quarters),
    BadPicture("pixel.png", _content(lambda: encoded(Image.new("RGB", (1, 1), "white"), "PNG")), shown=_white),
    BadPicture(
        "grey16.png",
        _content(lambda: encoded(Image.fromarray(_ramp16()), "PNG")),
        shown=lambda: _grey(_scaled(_ramp16())),
    ),
    BadPicture(
        "rgb16.tif",
        _raster(np.stack([_ramp16()] * 3), photometric="RGB"),
        shown=lambda: _grey(_scaled(_ramp16())),
    ),
    BadPicture("ink.tif", _content(lambda: encoded(_ink(), "TIFF")), shown=_ink_shown),
    BadPicture("alpha.png", _content(lambda: encoded(_alpha(), "PNG")), shown=_alpha_shown),
    BadPicture(
        "palette.png",
        _content(lambda: encoded(_palette(), "PNG")),
        shown=lambda: np.asarray(_palette().convert("RGB")),
    ),
    BadPicture(
        "one-bit.png",
        _content(lambda: encoded(_one_bit(), "PNG")),
        shown=lambda: _grey(np.asarray(_one_bit().convert("L"))),
    ),
    BadPicture("turned.jpg", _content(_turned_jpeg), shown=lambda: np.rot90(_quarters(), -1)),
    BadPicture("pages.tif", _content(_two_pages), shown=tissue),
)
