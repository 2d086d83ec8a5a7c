"""Tiled TIFF and its overviews through rasterio: windows of any level, decoded tile by tile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rasterio.io import DatasetReader
from rasterio.windows import Window

from mpamatch.domain.pyramid import levels_of, plausible_um_per_px
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput
from mpamatch.files.images import GDAL_ERRORS, open_raster, overview_sizes, read_rgb
from mpamatch.files.slide_by_tiffslide import TiffHeader

UInt8Array = npt.NDArray[np.uint8]


class RasterSlide:
    """A TIFF whose levels are open data sets. Overviews that show something else are left out."""

    def __init__(self, datasets: list[DatasetReader], item: str, um_per_px: float | None, budget_px: int) -> None:
        self._datasets, self._item, self._budget_px = datasets, item, budget_px
        self.levels = levels_of([(int(d.width), int(d.height)) for d in datasets])
        self.um_per_px = um_per_px

    def read(self, box: Box, level: int) -> UInt8Array:
        if box.area_px > self._budget_px:
            raise BadInput(self._item, f"a window of {box.area_px:,} pixels", "raise the pixel budget")
        window = Window(box.x_px, box.y_px, box.width_px, box.height_px)
        try:
            return read_rgb(self._datasets[level], self._item, window)
        except GDAL_ERRORS as error:
            cause = " ".join(str(error.__cause__ or error).split())[:160]
            raise BadInput(self._item, f"damaged or cut short ({cause})", "export or copy the file again") from error


@contextmanager
def open_by_rasterio(path: Path, header: TiffHeader, item: str, *, budget_px: int) -> Iterator[RasterSlide]:
    """Raises BadInput as :func:`~mpamatch.files.images.open_raster`."""
    with ExitStack() as opened:
        first, _ = opened.enter_context(open_raster(path, budget_px=budget_px, name=item))
        datasets = [first]
        for index, size in enumerate(overview_sizes(first, path)):
            if size is not None:
                dataset, _ = opened.enter_context(open_raster(path, budget_px=budget_px, name=item, overview=index))
                datasets.append(dataset)
        datasets.sort(key=lambda d: -d.width)
        yield RasterSlide(datasets, item, plausible_um_per_px(header.um_per_px), budget_px)
