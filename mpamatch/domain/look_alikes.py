"""Which tiles look like one that a person marked as an artefact, and so go to the end of the order. Pure.

By the cosine of whole-tile embeddings of one and the same model. A tile that looks at least as much like one that
people accepted stays where it is: embeddings of one stain are all alike to some degree, and a fold in good tissue must
not take the tissue with it. Nothing is removed, and without the mark the same record gives the order as it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.novelty import Embed, Vectors, cosines

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Tiles whose embeddings are in memory at once, beside those of the artefacts.
_TILES: Final = 2_000
# The last bits of a product hang on where a row stands in its block: nothing may be decided by them.
_DECIMALS: Final = 5


@dataclass(frozen=True)
class Marks:
    """Ids of the tiles that are marked as artefacts, and of those that people accepted, ascending."""

    artefacts: Ints
    accepted: Ints


@dataclass(frozen=True)
class LookAlike:
    """The artefact that a tile looks most like, and how much: their cosine."""

    artefact: int
    cosine: float


@dataclass(frozen=True)
class LookAlikes:
    """N tiles ascending by id, the artefact that each looks most like, and their cosine, (N,) each."""

    tile_ids: Ints
    artefacts: Ints
    cosines: Floats

    def __len__(self) -> int:
        return len(self.tile_ids)

    @classmethod
    def nothing(cls) -> LookAlikes:
        """No tile looks like an artefact."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))


def look_alikes(tile_ids: Ints, marks: Marks, embed: Embed, cosine: float) -> LookAlikes:
    """Those of some tiles whose cosine with an artefact is above ``cosine`` and above that with all that was accepted.

    Of two artefacts as near, the one with the lower id is named. A tile without an embedding, or with one of zeros, is
    like nothing. What was accepted is asked for only where something is near. Raises BadInput for embeddings that are
    no numbers.
    """
    marked, signs = _all_of(embed, marks.artefacts)
    if len(marked) == 0:
        return LookAlikes.nothing()
    near = [_near(*_whole(embed, part), marked, signs, cosine) for part in _parts(tile_ids)]
    if not any(len(tiles) for tiles, *_ in near):
        return LookAlikes.nothing()
    tiles, nearest, highest, rows = (np.concatenate(column) for column in zip(*near, strict=True))
    _, good = _all_of(embed, marks.accepted)
    order = np.argsort(tiles, kind="stable")
    order = order[(highest > cosines(rows, good))[order]]
    return LookAlikes(tiles[order], nearest[order], highest[order])


def _near(
    tiles: Ints, rows: Vectors, marked: Ints, signs: Vectors, cosine: float
) -> tuple[Ints, Ints, Floats, Vectors]:
    """Of N tiles with their rows (N, D) those above ``cosine`` with one of M artefacts, whose ``signs`` are (M, D):
    ids, the nearest artefact of each, cosines, rows."""
    if len(tiles) == 0:  # then not even the length of rows is known
        return tiles, tiles, np.zeros(0), np.zeros((0, signs.shape[1]), np.float32)
    products = np.round((rows @ signs.T).astype(np.float64), _DECIMALS)
    nearest = products.argmax(axis=1)
    highest = products[np.arange(len(tiles)), nearest]
    above = np.flatnonzero(highest > cosine)
    return tiles[above], marked[nearest[above]], highest[above], rows[above]


def _parts(tile_ids: Ints) -> Iterator[Ints]:
    return (tile_ids[start : start + _TILES] for start in range(0, len(tile_ids), _TILES))


def _all_of(embed: Embed, tile_ids: Ints) -> tuple[Ints, Vectors]:
    """Tiles that have an embedding, and their unit rows (N, D)."""
    found = [one for part in _parts(tile_ids) if len((one := _whole(embed, part))[0])]
    if not found:
        return np.zeros(0, np.int64), np.zeros((0, 1), np.float32)
    return np.concatenate([tiles for tiles, _ in found]), np.concatenate([rows for _, rows in found])


def _whole(embed: Embed, tile_ids: Ints) -> tuple[Ints, Vectors]:
    found = embed(tile_ids).checked(len(tile_ids))
    known = np.diff(found.starts) > 0
    return tile_ids[known], found.vectors[found.starts[:-1][known]]
