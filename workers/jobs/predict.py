"""Make the predictions that are missing, the most urgent first, until none is due or the worker is told to stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import numpy as np

from backend.actions.keep_prediction import keep_prediction
from backend.actions.set_aside import give_up_model, set_aside_tile
from backend.store import images, predictions, projects
from backend.store.predictions import DuePrediction
from backend.store.tables import Tile
from mpamatch.domain.regions import Region, find_regions
from mpamatch.errors import BadInput, MpamatchError, NotFound
from mpamatch.files.images import read_image
from workers.champion import LoadedModels
from workers.parts import Parts

LOG = logging.getLogger("mpamatch.predict")
BATCH = 4
TELL_EVERY_S = 3.0
# The segmenters' heads answer on every second pixel; outlining finer would cost time and show nothing more.
GRID = 2
RIM_PX = 3.0


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
        tau = projects.policy_of(project).tau
        class_count = projects.classes_of(project).count
        um_per_px = images.tile_um_per_px(session, tile)
    if job.model_blob is None:
        class_map, confidence, regions = _blank(tile, class_count)
    else:
        try:
            image = read_image(parts.blobs.get(job.png_blob))
        except (BadInput, NotFound) as error:
            _set_aside(parts, tile, error)
            return tile.project_id
        try:
            predictor = models.predictor(job.model_blob)
            probabilities = predictor.predict(image, um_per_px=um_per_px)
        except (BadInput, NotFound) as error:
            _give_up(parts, tile, job, error)
            return tile.project_id
        class_map = probabilities.argmax(axis=0).astype(np.uint8)
        confidence = probabilities.max(axis=0)
        # A boundary is as wide as the model sees it: its rim is measured at the model's own scale.
        rim_px = RIM_PX * predictor.reduction(image, um_per_px=um_per_px)
        height_px, width_px = image.shape[:2]
        regions = find_regions(
            probabilities[:, ::GRID, ::GRID], tau, scale=float(GRID), size_px=(width_px, height_px), rim_px=rim_px
        )
    keep_prediction(
        parts.database,
        parts.blobs,
        tile_id=job.tile_id,
        model_id=job.model_id,
        class_map=class_map,
        confidence=confidence,
        regions=regions,
    )
    _release(parts, tile)
    return tile.project_id


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
