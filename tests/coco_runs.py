"""Reading COCO's uncompressed runs back, for tests: whoever takes our files in does it so."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def decode_runs(counts: Sequence[int], height_px: int, width_px: int) -> npt.NDArray[np.bool_]:
    """bool (H, W) of lengths of zeros and ones, column by column, zeros first; they must fill the size."""
    assert sum(counts) == height_px * width_px
    assert min(counts) >= 0
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape((height_px, width_px), order="F")
