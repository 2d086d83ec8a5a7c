"""Mask files that something is wrong or odd with, each made by code beside a whole picture of 48 x 48 pixels.

``line``: the one line that registering gives, ``{path}`` standing for the mask; the picture is taken all the same.
``mask``: the class ids that are kept, where it is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image

from tests.bad_inputs.pictures import DAMAGED, SIDE, Pixels, encoded, png_of_header, tissue

IDS = "; store class ids (0, 1, ...), 255 for no supervision; for instances or 0/255 say --foreground"


@dataclass(frozen=True)
class BadMask:
    """One mask of a project with background and gland."""

    file: str
    make: Callable[[Path], Any]
    line: str | None = None
    mask: Callable[[], Pixels] | None = None


def gland() -> Pixels:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return ((rows - 20) ** 2 + (columns - 24) ** 2 <= 100).astype(np.uint8)


def _saved(make: Callable[[], Pixels], kind: str = "PNG") -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(encoded(Image.fromarray(make()), kind))


def _soft() -> Pixels:
    """A disc as a drawing program saves it: 0 to 250, with a soft edge."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(rows - 20, columns - 24)
    return np.rint(250 * np.clip(12 - distance, 0, 1)).astype(np.uint8)


def _float(path: Path) -> None:
    profile = {"driver": "GTiff", "count": 1, "height": SIDE, "width": SIDE, "dtype": "float32"}
    with rasterio.open(path, "w", **profile) as out:
        out.write(gland().astype(np.float32), 1)


def _link_out(path: Path) -> None:
    outside = path.parents[2] / "mask-outside.png"
    outside.write_bytes(encoded(Image.fromarray(gland()), "PNG"))
    path.symlink_to(outside)


def _strange() -> Pixels:
    return gland() * 7


def _soft_line() -> str:
    listed = ", ".join(str(v) for v in [v for v in np.unique(_soft()) if v >= 2][:5])
    return f"{{path}}: values {listed}, ... with 2 classes" + IDS


MASKS = (
    BadMask(
        "smaller.png",
        _saved(lambda: gland()[:40]),
        "{path}: 48 x 40 px, its image 48 x 48; export the mask at the size of its image",
    ),
    BadMask("index.png", _saved(_strange), "{path}: values 7 with 2 classes" + IDS),
    BadMask("soft.png", _saved(_soft), _soft_line()),
    BadMask("coloured.png", _saved(tissue), "{path}: a coloured mask; store class ids as an indexed or grey PNG"),
    BadMask("float.tif", _float, "{path}: samples of type float32; save it with 8 or 16 bits a channel"),
    BadMask("zero.png", lambda path: path.touch(), "{path}: empty (zero bytes)" + DAMAGED),
    BadMask(
        "bomb.png",
        lambda path: path.write_bytes(png_of_header(200_000, 200_000)),
        "{path}: 40,000,000,000 pixels, more than the 100,000,000 allowed at once; "
        "cut it, reduce it, or raise the pixel budget",
    ),
    BadMask("link.png", _link_out, "{path}: a link that leaves the folder; copy it in"),
    BadMask(
        "nothing.png",
        _saved(lambda: np.full((SIDE, SIDE), 255, np.uint8)),
        mask=lambda: np.full((SIDE, SIDE), 255, np.uint8),
    ),
    BadMask("two-ways.png", _saved(lambda: gland() * 255), mask=gland),
    BadMask("three-channels.png", _saved(lambda: np.repeat(gland()[..., None], 3, axis=2)), mask=gland),
    BadMask(
        "empty.png", _saved(lambda: np.zeros((SIDE, SIDE), np.uint8)), mask=lambda: np.zeros((SIDE, SIDE), np.uint8)
    ),
)
