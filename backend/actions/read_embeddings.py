"""A model's embeddings of tiles, as the ranking asks for them: blobs, some thousand at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from backend.store import predictions
from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from mpamatch.domain.novelty import Ints, TileEmbeddings
from mpamatch.files.embeddings import Embeddings


class ModelEmbeddings:
    """Of tiles that one model has seen. One whose embeddings are lost, or of another size than most, has none.

    For one ranking: the rows of whole tiles, which are asked for once more at its end, are remembered from the first
    reading (some hundred bytes each). Reading raises Unavailable.
    """

    def __init__(self, database: Database, blobs: BlobStore, model_id: int) -> None:
        self._database = database
        self._blobs = blobs
        self._model_id = model_id
        self._size: int | None = None
        self._whole: dict[int, Embeddings | None] = {}

    def of_tiles(self, tile_ids: Ints) -> TileEmbeddings:
        """Each tile's own row, then one for each of its regions."""
        return self._joined(self._read(tile_ids), tile_ids)

    def of_whole_tiles(self, tile_ids: Ints) -> TileEmbeddings:
        """Each tile's own row alone."""
        self._read(np.setdiff1d(tile_ids, np.fromiter(self._whole, np.int64, len(self._whole))))
        return self._joined(self._whole, tile_ids)

    def _read(self, tile_ids: Ints) -> dict[int, Embeddings]:
        with self._database.transaction() as session:
            named = predictions.embedding_blobs(session, self._model_id, tile_ids.tolist())
        found = dict(predictions.embeddings_of(self._blobs, named))
        sizes = Counter(rows.shape[1] for rows in found.values())
        if self._size is None and sizes:
            self._size = sizes.most_common(1)[0][0]
        fitting = {tile: rows for tile, rows in found.items() if rows.shape[1] == self._size}
        # Copied, or each would keep all of its tile's rows in memory.
        self._whole |= {tile: fitting[tile][:1].copy() if tile in fitting else None for tile in tile_ids.tolist()}
        return fitting

    def _joined(self, known: Mapping[int, Embeddings | None], tile_ids: Ints) -> TileEmbeddings:
        none = np.zeros((0, self._size or 1), np.float16)
        rows = [none if (one := known.get(tile)) is None else one for tile in tile_ids.tolist()]
        starts = np.concatenate([[0], np.cumsum([len(one) for one in rows])]).astype(np.int64)
        return TileEmbeddings(np.concatenate([none, *rows]).astype(np.float32), starts)
