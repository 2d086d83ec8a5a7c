"""Maps in cells: each covers its whole image evenly, whatever the image's size. Pure.

A network answers some things on coarser grids than pixels (a quarter, a sixteenth). A map of h x w cells over an image
of H x W pixels has cells of H/h x W/w pixels, which need not be whole.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
Ints = npt.NDArray[np.intp]


def cells_of(places: Ints, shape: tuple[int, int], cells: tuple[int, int]) -> Ints:
    """The flat cell of a map of ``cells`` (h, w) that each flat place of a raster of ``shape`` (H, W) lies in."""
    rows, columns = np.divmod(places, shape[1])
    return (rows * cells[0] // shape[0]) * cells[1] + columns * cells[1] // shape[1]


def held(cells: npt.NDArray[np.bool_], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """What a map (h, w) says of the cell that each place of a raster of ``shape`` (H, W) lies in."""
    for axis, length in enumerate(shape):
        cells = np.take(cells, np.arange(length) * cells.shape[axis] // length, axis=axis)
    return cells


def spread(field: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """A map (h, w) on a finer raster of ``shape`` (H, W): bilinear between the cells' centres, as it is beyond them."""
    for axis, length in enumerate(shape):
        field = _along(field, axis, length)
    return field


def _along(field: FloatArray, axis: int, length: int) -> FloatArray:
    cells = field.shape[axis]
    if cells == length:
        return field
    centres = np.clip((np.arange(length) + 0.5) * cells / length - 0.5, 0, cells - 1)
    low = centres.astype(np.intp)
    share = (centres - low).astype(np.float32)
    share = share[:, None] if axis == 0 else share
    high = np.minimum(low + 1, cells - 1)
    first, second = np.take(field, low, axis=axis), np.take(field, high, axis=axis)
    return first + (second - first) * share
