"""How unlike anything labelled: embeddings of tiles and regions, and distances between them in blocks.

Cosines are rounded before anybody compares them: the last bits of a matrix product depend on where a row stands in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.errors import BadInput

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]

_BLOCK_ROWS: Final = 2048
_UNIT: Final = 1e-6
_DECIMALS: Final = 5  # single precision holds six of a cosine near 1


@dataclass(frozen=True)
class TileEmbeddings:
    """Embeddings of some tiles: tile t has the rows ``starts[t]:starts[t + 1]`` of ``vectors`` (M, D).

    The first of a tile is that of the whole tile, then comes one for each of its regions, ascending by the region's
    id. A tile without any has no rows.
    """

    vectors: Vectors
    starts: Ints

    def checked(self, tiles: int) -> TileEmbeddings:
        """With rows of length 1. Raises BadInput when it is not about that many tiles or holds what is no number."""
        if self.vectors.ndim != 2 or len(self.starts) != tiles + 1 or self.starts[-1] != len(self.vectors):
            problem = f"{len(self.starts) - 1} tiles with {len(self.vectors)} rows, asked for {tiles}"
            raise BadInput("embeddings", problem, "give one group of rows for each tile")
        if not np.isfinite(self.vectors).all():
            raise BadInput("embeddings", "hold what is no number", "let the model predict these tiles again")
        return TileEmbeddings(unit(self.vectors), self.starts)


Embed = Callable[[Ints], TileEmbeddings]
"""Embeddings of the tiles with these ids, in their order: the one thing that a ranking asks for while it runs, for some
thousand tiles at a time."""


def unit(vectors: NDArray[np.floating]) -> Vectors:
    """Rows of length 1, float32; a row of zeros stays so.

    >>> unit(np.array([[3.0, 4.0]])).round(2).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    rows = np.asarray(vectors, np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows))
    if (np.abs(lengths - 1) < _UNIT).all():
        return rows
    return (rows / np.where(lengths > 0, lengths, np.float32(1))[:, None]).astype(np.float32, copy=False)


def cosines(vectors: Vectors, others: Vectors) -> Floats:
    """The cosine of each row (N, D) with its most similar of ``others`` (M, D), (N,); -1 where there are no others.

    Both are unit rows. N x M products are made a block at a time.
    """
    nearest = np.full(len(vectors), -1.0)
    if len(others) == 0:
        return nearest
    for start in range(0, len(vectors), _BLOCK_ROWS):
        block = vectors[start : start + _BLOCK_ROWS]
        nearest[start : start + _BLOCK_ROWS] = (block @ others.T).max(axis=1)
    return np.round(nearest, _DECIMALS)


def distances(vectors: Vectors, labelled: Vectors) -> Floats:
    """1 less the highest cosine to anything labelled, in 0..2, (N,); nan where nothing is labelled yet."""
    if len(labelled) == 0:
        return np.full(len(vectors), np.nan)
    return 1.0 - cosines(vectors, labelled)
