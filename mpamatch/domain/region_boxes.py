"""The boxes in which a person answers: as large as helps, as small as can be overseen, and hardly on each other. Pure.

A box around a few pixels shows nothing of what they belong to, and an answer inside it teaches next to nothing; boxes
that grow to what they hold need no size of their own to be chosen (Qiu et al. 2023, on CAMELYON16). Of boxes that
lie on each other the first is kept (greedy suppression by intersection over union).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mpamatch.domain.region_areas import Slices
from mpamatch.domain.tiling import Box


def grown_box(slices: Slices, scale: float, size_px: tuple[int, int], least_px: float) -> Box:
    """The smallest box of whole tile pixels around an area of grid cells, then at least ``least_px`` long and high.

    It grows evenly to both sides, is moved where it would leave the tile of ``size_px`` (width, height), and is the
    tile's own length where that is shorter.
    """
    rows, columns = slices
    left, right = _side(columns, scale, size_px[0], least_px)
    top, bottom = _side(rows, scale, size_px[1], least_px)
    return Box(left, top, right - left, bottom - top)


def _side(cells: slice, scale: float, length_px: int, least_px: float) -> tuple[int, int]:
    start = min(int(np.floor(cells.start * scale)), length_px - 1)
    stop = max(start + 1, min(int(np.ceil(cells.stop * scale)), length_px))
    lacking = min(round(least_px), length_px) - (stop - start)
    if lacking <= 0:
        return start, stop
    start = min(max(0, start - lacking // 2), length_px - min(round(least_px), length_px))
    return start, start + min(round(least_px), length_px)


def without_overlapping(boxes: Sequence[Box], most_overlap: float, most: int) -> list[int]:
    """Indices of at most ``most`` boxes kept, in order: one that overlaps an earlier kept one by more is dropped.

    Overlap is the area that two have in common over the area that they cover together.
    """
    if not boxes:
        return []
    sides = np.array([(b.x_px, b.y_px, b.x_px + b.width_px, b.y_px + b.height_px) for b in boxes], np.float64)
    areas = (sides[:, 2] - sides[:, 0]) * (sides[:, 3] - sides[:, 1])
    open_ = np.ones(len(boxes), bool)
    kept: list[int] = []
    for index in range(len(boxes)):
        if len(kept) >= most:
            break
        if open_[index]:
            kept.append(index)
            open_ &= _overlaps(sides[index], sides, areas[index], areas) <= most_overlap
    return kept


def _overlaps(
    one: npt.NDArray[np.float64], others: npt.NDArray[np.float64], area: float, areas: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    low = np.maximum(one[:2], others[:, :2])
    high = np.minimum(one[2:], others[:, 2:])
    common = np.prod(np.clip(high - low, 0.0, None), axis=1)
    shares: npt.NDArray[np.float64] = common / (area + areas - common)
    return shares
