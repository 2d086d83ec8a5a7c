"""What areas of a tile look like, as unit vectors: means of vectors that a network gives for the cells of a grid. Pure.

A network has more than one such map (its pixel embeddings, its encoder's deepest features). Each is averaged over the
area and brought to unit length; then they are put beside each other and divided by the root of their number. So a joint
vector has unit length, and the cosine of two of them is the mean of the cosines of their parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

from mpamatch.domain.grids import FloatArray, Ints, cells_of


def embedding_of_tile(maps: Sequence[FloatArray]) -> FloatArray:
    """The unit vector float32 (D,) of everything that ``maps``, each (D_i, h_i, w_i), show; D is the sum of D_i."""
    return joined([field.reshape(len(field), -1).mean(axis=1, dtype=np.float64)[None] for field in maps])[0]


def embeddings_of_areas(
    maps: Sequence[FloatArray], owners: Ints, places: Ints, count: int, shape: tuple[int, int]
) -> FloatArray:
    """Unit vectors float32 (count, D) of areas of a raster of ``shape`` (H, W).

    ``places`` are flat pixels of the raster and ``owners`` the area, from 0, that each belongs to.
    """
    return joined([_means(field, owners, cells_of(places, shape, field.shape[1:]), count) for field in maps])


def joined(parts: Sequence[npt.NDArray[np.floating]]) -> FloatArray:
    """Rows (N, D_i) of each part brought to unit length, side by side, and to unit length again: float32 (N, D).

    A part without any length stays 0.
    """
    units = [part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12) for part in parts]
    return (np.concatenate(units, axis=1) / np.sqrt(len(units))).astype(np.float32)


def _means(field: FloatArray, owners: Ints, cells: Ints, count: int) -> npt.NDArray[np.float64]:
    flat = field.reshape(len(field), -1)
    used = np.flatnonzero(np.bincount(cells, minlength=flat.shape[1]))
    column = np.zeros(flat.shape[1], np.intp)
    column[used] = np.arange(len(used))
    # How many pixels of each area lie in each cell: equal places are added up.
    weights = sparse.csr_matrix((np.ones(len(cells)), (owners, column[cells])), shape=(count, len(used)))
    sums = weights @ flat[:, used].T.astype(np.float64)
    means: npt.NDArray[np.float64] = sums / np.maximum(np.bincount(owners, minlength=count), 1)[:, None]
    return means
