"""What is known of a tile after several answers: each adds to those before it, and the newest wins where two speak.

Nothing is overwritten. Each version keeps what its own annotation said beside what is known with it, so that one that
is changed or taken back leaves the others' pixels as they were said. The caller holds the tile's row.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.orm import Session

from backend.store import masks
from backend.store.blobs import BlobStore
from backend.store.tables import Annotation, Mask
from mpamatch.domain.masks import combine, reviewed_share
from mpamatch.errors import BadInput, NotFound
from mpamatch.files.rasters import decode_raster, encode_raster

LOG = logging.getLogger("mpamatch.masks")
ClassMap = NDArray[np.uint8]


def add_answer(
    session: Session, blobs: BlobStore, row: Annotation, said: ClassMap, *, origin: str, prediction_id: int | None
) -> None:
    """The next version of a tile's mask: what an annotation says, uint8 (H, W), over what is known from others."""
    others = [layer for layer in masks.layers(session, row.tile_id) if layer.annotation_id != row.id]
    _append(session, blobs, others, said, row.tile_id, row.id, origin=origin, prediction_id=prediction_id)


def settle(session: Session, blobs: BlobStore, tile_id: int) -> None:
    """After an answer was taken back: a version without its pixels, where the one that counts now still has them."""
    layers = masks.layers(session, tile_id)
    if not layers:
        return
    top = layers[-1]
    if len(layers) == 1 and top.said_blob is None:
        return
    said = _read(blobs, top)
    if said is not None:
        _append(
            session,
            blobs,
            layers[:-1],
            said,
            tile_id,
            top.annotation_id,
            origin=top.origin,
            prediction_id=top.prediction_id,
        )


def _append(
    session: Session,
    blobs: BlobStore,
    others: Sequence[Mask],
    said: ClassMap,
    tile_id: int,
    annotation_id: int | None,
    *,
    origin: str,
    prediction_id: int | None,
) -> None:
    known = said
    for layer in reversed(others):
        older = _read(blobs, layer)
        if older is not None and older.shape == known.shape:
            known = combine(older, known)
    said_blob, blob = blobs.put(encode_raster(said)), blobs.put(encode_raster(known))
    masks.append(
        session,
        tile_id=tile_id,
        origin=origin,
        blob=blob,
        reviewed_share=reviewed_share(known),
        annotation_id=annotation_id,
        prediction_id=prediction_id,
        said=None if blob == said_blob else (said_blob, reviewed_share(said)),
    )


def _read(blobs: BlobStore, layer: Mask) -> ClassMap | None:
    """What a layer's own source said. One that is lost or damaged must not cost the others."""
    try:
        return decode_raster(blobs.get(layer.said_blob or layer.blob))
    except (BadInput, NotFound) as error:
        LOG.warning("tile=%s mask=%s is left out: %s", layer.tile_id, layer.id, error)
        return None
