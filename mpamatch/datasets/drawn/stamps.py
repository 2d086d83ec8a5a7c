"""Small soft ellipses laid on a tile many at a time: nuclei, mucin drops, red cells."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mpamatch.datasets.drawn.textures import FloatArray

FloatPoints = npt.NDArray[np.float64]
Stamp = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], FloatArray]


def ellipses(
    rng: np.random.Generator,
    x: FloatPoints,
    y: FloatPoints,
    long_px: FloatPoints,
    short_px: FloatPoints,
    tilt: FloatPoints,
    hollow: float = 0.0,
) -> Stamp:
    """Soft ellipses, all at once, as small squares: rows, columns and cover 0..1, each (n, s, s).

    ``hollow`` thins their middle, as chromatin lies at the rim of a large pale nucleus.
    """
    reach = int(np.ceil(long_px.max(initial=1.0))) + 1
    steps = np.arange(-reach, reach + 1)
    rows = np.rint(y).astype(np.intp)[:, None, None] + steps[None, :, None]
    columns = np.rint(x).astype(np.intp)[:, None, None] + steps[None, None, :]
    dy = (rows - y[:, None, None]).astype(np.float32)
    dx = (columns - x[:, None, None]).astype(np.float32)
    cos, sin, long, short = (
        values.astype(np.float32)[:, None, None] for values in (np.cos(tilt), np.sin(tilt), long_px, short_px)
    )
    reached = np.hypot((dx * cos + dy * sin) / long, (dy * cos - dx * sin) / short)
    cover = np.clip((1.0 - reached) * short + 0.5, 0.0, 1.0)
    if hollow:
        cover *= 1.0 - hollow * np.clip(1.0 - reached**2, 0.0, 1.0)
    cover *= rng.uniform(0.75, 1.0, x.size).astype(np.float32)[:, None, None]
    rows, columns = np.broadcast_arrays(rows, columns)
    return rows, columns, cover.astype(np.float32, copy=False)


def stamped(size_px: int, *stamps: Stamp) -> FloatArray:
    """The highest cover at each pixel of the tile."""
    layer = np.zeros(size_px * size_px, np.float32)
    for rows, columns, cover in stamps:
        seen = (rows >= 0) & (rows < size_px) & (columns >= 0) & (columns < size_px) & (cover > 0)
        np.maximum.at(layer, (rows * size_px + columns)[seen], cover[seen])
    return layer.reshape(size_px, size_px)
