"""Make the predictions that are missing, the most urgent first, until none is due or the worker is told to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np

from backend.actions.keep_prediction import keep_prediction
from backend.actions.set_aside import give_up_model, set_aside_tile
from backend.store import images, predictions, projects, returning
from backend.store.predictions import DuePrediction
from backend.store.tables import Mask, Tile
from mpamatch.domain.classes import IGNORE
from mpamatch.domain.looks import embeddings_of, regions_of
from mpamatch.domain.regions import Region
from mpamatch.errors import BadInput, MpamatchError, NotFound
from mpamatch.files.images import read_image
from mpamatch.files.rasters import decode_raster
from workers.champion import LoadedModels
from workers.parts import Parts

LOG = logging.getLogger("mpamatch.predict")
BATCH = 4
TELL_EVERY_S = 3.0


def predict_due(parts: Parts, models: LoadedModels, *, stop: Callable[[], bool]) -> int:
    """Returns how many were dealt with. One tile that fails is logged and tried again after its lease.

    A picture that cannot be read sets its image aside; a model that cannot be loaded ends its candidacy.
    """
    made, told, called = 0, time.monotonic(), False
    touched: set[int] = set()
    while not stop():
        with parts.database.transaction() as session:
            due = predictions.claim_due(
                session, now=parts.now(), holder=parts.holder, lease_s=parts.settings.lease_s, limit=BATCH
            )
        if not due:
            break
        if len(due) == BATCH and not called:
            # A message wakes one worker. What is more than a batch wakes one more, and that one the next; each asks
            # once, so that what is sent stays below the number of workers and one.
            parts.wakeups.predict()
            called = True
        for job in due:
            try:
                touched.add(_predict_one(parts, models, job))
                made += 1
            except MpamatchError as error:
                LOG.warning("tile=%s model=%s %s", job.tile_id, job.model_id, error)
            except Exception:
                LOG.exception("tile=%s model=%s failed; the rest goes on", job.tile_id, job.model_id)
        if time.monotonic() - told > TELL_EVERY_S:
            _tell(parts, touched)
            told = time.monotonic()
    _tell(parts, touched)
    if made:
        LOG.info("made %s predictions", made)
    return made


def _predict_one(parts: Parts, models: LoadedModels, job: DuePrediction) -> int:
    """The project whose rows changed: by a prediction, or by setting aside an unreadable picture or model."""
    with parts.database.transaction() as session:
        tile = session.get_one(Tile, job.tile_id)
        project = projects.get(session, tile.project_id)
        policy, classes = projects.policy_of(project), projects.classes_of(project)
        um_per_px = images.tile_um_per_px(session, tile)
        known = None if job.model_blob is None else returning.known_part(session, tile.id)
    embeddings: np.ndarray | None = None
    if job.model_blob is None:
        class_map, confidence, regions = _blank(tile, classes.count)
    else:
        try:
            image = read_image(parts.blobs.get(job.png_blob))
        except (BadInput, NotFound) as error:
            _set_aside(parts, tile, error)
            return tile.project_id
        try:
            predictor = models.predictor(job.model_blob)
            look = predictor.look(image, um_per_px=um_per_px)
        except (BadInput, NotFound) as error:
            _give_up(parts, tile, job, error)
            return tile.project_id
        class_map = look.probabilities.argmax(axis=0).astype(np.uint8)
        confidence = look.probabilities.max(axis=0)
        tau = policy.taus(classes) or policy.tau
        reviewed = None if known is None else _reviewed(parts, known, class_map.shape)
        known = None if reviewed is None else known
        reduction = predictor.reduction(image, um_per_px=um_per_px)
        regions = regions_of(look, image, tau, reduction=reduction, reviewed=reviewed)
        embeddings = embeddings_of(look, regions)
    keep_prediction(
        parts.database,
        parts.blobs,
        tile_id=job.tile_id,
        model_id=job.model_id,
        class_map=class_map,
        confidence=confidence,
        regions=regions,
        embeddings=embeddings,
        known_mask_id=None if known is None else known.id,
    )
    _release(parts, tile)
    return tile.project_id


def _reviewed(parts: Parts, known: Mask, shape: tuple[int, ...]) -> np.ndarray | None:
    """Where a tile is labelled, bool (H, W); None where its mask cannot be read, so that nobody is asked over it."""
    try:
        mask = decode_raster(parts.blobs.get(known.blob))
    except (BadInput, NotFound) as error:
        LOG.warning("tile=%s mask=%s cannot be read: %s", known.tile_id, known.id, error)
        return None
    return mask != IGNORE if mask.shape == shape else None


def _set_aside(parts: Parts, tile: Tile, error: MpamatchError) -> None:
    """No model will ever see this picture: ranking, roll-out and judging go on without its image."""
    set_aside_tile(parts.database, tile.id, error, actor=parts.holder)
    _release(parts, tile)


def _give_up(parts: Parts, tile: Tile, job: DuePrediction, error: MpamatchError) -> None:
    """A model that cannot be loaded or answers with no numbers is never judged and never serves: its run ends, or the
    champion before serves."""
    LOG.warning("model=%s %s", job.model_id, error)
    if give_up_model(parts.database, parts.blobs, job.model_id, error, actor=parts.holder, now=parts.now()):
        _release(parts, tile)  # else it is still due: it waits until its claim ends, and is tried again then


def _release(parts: Parts, tile: Tile) -> None:
    with parts.database.transaction() as session:
        predictions.release(session, [tile.id], holder=parts.holder)


def _blank(tile: Tile, class_count: int) -> tuple[np.ndarray, np.ndarray, tuple[Region, ...]]:
    """What a model that knows nothing says: background at chance, and no region: no place is better than another."""
    shape = tile.size_px[::-1]
    return np.zeros(shape, np.uint8), np.full(shape, 1 / class_count, np.float32), ()


def _tell(parts: Parts, project_ids: set[int]) -> None:
    for project_id in sorted(project_ids):
        parts.wakeups.sync(project_id)
    project_ids.clear()
