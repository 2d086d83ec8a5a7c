"""Mask files to class ids and back.

Knows no project and no class name. Colours are never class ids: of an indexed PNG the indices count.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rasterio.enums import ColorInterp

from mpamatch.domain.classes import IGNORE
from mpamatch.errors import BadInput
from mpamatch.files.images import DEFAULT_BUDGET_PX, open_raster
from mpamatch.files.rasters import UInt8Array, checked

_GREY_SHARE = 0.01
_REMEDY_VALUES = "store class ids (0, 1, ...), 255 for no supervision; for instances or 0/255 say --foreground"


def read_mask(
    source: Path | bytes,
    *,
    class_count: int,
    foreground: bool = False,
    expected_size: tuple[int, int] | None = None,
    budget_px: int = DEFAULT_BUDGET_PX,
    name: str | None = None,
) -> UInt8Array:
    """Class ids, uint8 (H, W); 255 means no supervision.

    Indexed PNG, grey PNG, TIFF or BMP, of 1, 8 or 16 bits; an RGB file is taken when its channels are equal.
    ``foreground``: any value above 0 is class 1 (instance numbers, 0/255), and nothing is ignored.
    With two classes a grey mask that holds exactly the values 0 and 255 is read the same way without being asked, since
    0/255 is how most tools write two classes; there 255 is therefore class 1 and not "no supervision". A mask that is
    255 throughout, or is indexed as ours are, stays without supervision there unless ``foreground`` says otherwise.
    ``expected_size`` is (width_px, height_px) of the image.

    Raises BadInput: as for images; a JPEG (it blurs ids); coloured; another size; a value that is no class.
    """
    with open_raster(source, budget_px=budget_px, name=name) as (dataset, item):
        if dataset.driver == "JPEG":
            raise BadInput(item, "a JPEG blurs class ids", "store masks as PNG or TIFF")
        pixels = dataset.width * dataset.height
        if pixels > budget_px:
            raise BadInput(item, f"{pixels:,} pixels, more than the {budget_px:,} allowed", "raise the pixel budget")
        if expected_size is not None and (dataset.width, dataset.height) != expected_size:
            problem = f"{dataset.width} x {dataset.height} px, its image {expected_size[0]} x {expected_size[1]}"
            raise BadInput(item, problem, "export the mask at the size of its image")
        indexed = dataset.colorinterp[0] == ColorInterp.palette
        values = _single_band(dataset.read(), dataset.colorinterp, item)
    return _to_classes(values, class_count, foreground, indexed, item)


def read_soft_mask(source: Path | bytes, *, name: str | None = None) -> UInt8Array:
    """A mask of two classes that was stored with loss (JPEG), uint8 (H, W): 1 above half of its largest value.

    For published sets that hold such files (0/255); an annotation of our own is never read this way. Raises BadInput as
    for images, and when more than a hundredth of the pixels lie in the middle half of the range: then it is a picture
    and no mask.
    """
    with open_raster(source, name=name) as (dataset, item):
        values = _single_band(dataset.read(), dataset.colorinterp, item).astype(np.float32)
    top = float(values.max(initial=0.0))
    # Of a few levels (0/1) nothing lies between.
    if top >= 16 and float(((values > 0.25 * top) & (values < 0.75 * top)).mean()) > _GREY_SHARE:
        raise BadInput(item, "is a picture and no mask of two values", "restore the published file")
    return (values > 0.5 * top).astype(np.uint8)


def _single_band(bands: npt.NDArray[Any], kinds: Sequence[ColorInterp], item: str) -> npt.NDArray[Any]:
    shown = [band for band, kind in zip(bands, kinds, strict=True) if kind != ColorInterp.alpha]
    if any((band != shown[0]).any() for band in shown[1:]):
        raise BadInput(item, "a coloured mask", "store class ids as an indexed or grey PNG")
    return shown[0]


def _to_classes(values: npt.NDArray[Any], class_count: int, foreground: bool, indexed: bool, item: str) -> UInt8Array:
    present = np.unique(values)
    if foreground or (class_count == 2 and not indexed and present.tolist() == [0, IGNORE]):
        return (values > 0).astype(np.uint8)
    strange = present[(present >= class_count) & (present != IGNORE)]
    if strange.size:
        listed = ", ".join(str(v) for v in strange[:5]) + (", ..." if strange.size > 5 else "")
        raise BadInput(item, f"values {listed} with {class_count} classes", _REMEDY_VALUES)
    return values.astype(np.uint8)


def write_mask(mask: UInt8Array, colours: Sequence[str] = ()) -> bytes:
    """Class ids as an indexed PNG whose palette shows ``colours`` (``#rrggbb`` by class id).

    >>> read_mask(write_mask(np.eye(3, dtype=np.uint8)), class_count=2).sum().item()
    3
    """
    palette = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(256, 3)
    for index, colour in enumerate(colours):
        palette[index] = list(bytes.fromhex(colour.removeprefix("#")))
    palette[IGNORE] = 255
    indexed = Image.fromarray(checked(mask)).copy()
    indexed.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    indexed.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
