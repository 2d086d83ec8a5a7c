"""Keep what a model said of a tile: rasters as blobs first, then one row with its regions."""

from __future__ import annotations

import numpy as np

from backend.store import predictions
from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from mpamatch.domain.regions import Region
from mpamatch.files.embeddings import encode_embeddings
from mpamatch.files.rasters import encode_raster


def keep_prediction(
    database: Database,
    blobs: BlobStore,
    *,
    tile_id: int,
    model_id: int,
    class_map: np.ndarray,
    confidence: np.ndarray,
    regions: tuple[Region, ...],
    embeddings: np.ndarray | None = None,
    known_mask_id: int | None = None,
) -> bool:
    """Store ``class_map`` (uint8 (H, W)) and ``confidence`` (float (H, W), 0..1, kept in 8 bits). False if known.

    ``embeddings`` (1 + R, D), kept in half precision: the tile's row, then one for each region. ``known_mask_id``: the
    mask outside of which the regions were sought.
    """
    areas = {str(c): int(n) for c, n in enumerate(np.bincount(class_map.ravel())) if n}
    class_blob = blobs.put(encode_raster(class_map))
    confidence_blob = blobs.put(encode_raster(np.round(confidence * 255).astype(np.uint8)))
    embeddings_blob = None if embeddings is None else blobs.put(encode_embeddings(embeddings))
    with database.transaction() as session:
        return predictions.keep(
            session,
            tile_id=tile_id,
            model_id=model_id,
            class_blob=class_blob,
            confidence_blob=confidence_blob,
            class_areas=areas,
            regions=regions,
            embeddings_blob=embeddings_blob,
            known_mask_id=known_mask_id,
        )
