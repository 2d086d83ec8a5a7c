"""Make the second looks that are missing, after everything that is more urgent, until none is due or time is over."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from backend.actions.set_aside import set_aside_tile
from backend.store import images, predictions, second_looks
from backend.store.second_looks import DueSecondLook
from backend.store.tables import Tile
from mpamatch.domain.region_means import mean_inside
from mpamatch.errors import BadInput, MpamatchError, NotFound
from mpamatch.files.images import read_image
from workers.champion import LoadedModels
from workers.parts import Parts

LOG = logging.getLogger("mpamatch.predict")
# Somebody may have opened a tile meanwhile: then its prediction goes first.
TURN_S = 3.0


def look_again_due(parts: Parts, models: LoadedModels, *, stop: Callable[[], bool], turn_s: float = TURN_S) -> int:
    """Returns how many were made. One that fails is logged and tried again after its lease.

    After ``turn_s`` a worker is woken anew, which makes the predictions that are due first.
    """
    made, until = 0, time.monotonic() + turn_s
    touched: set[int] = set()
    while not stop() and time.monotonic() < until:
        with parts.database.transaction() as session:
            due = second_looks.claim_due(session, now=parts.now(), holder=parts.holder, lease_s=parts.settings.lease_s)
        if due is None:
            break
        try:
            made += _look_again(parts, models, due)
            touched.add(due.project_id)
        except MpamatchError as error:
            LOG.warning("tile=%s model=%s second look: %s", due.tile_id, due.model_id, error)
        except Exception:
            LOG.exception("tile=%s model=%s second look failed; the rest goes on", due.tile_id, due.model_id)
    with parts.database.transaction() as session:
        more = second_looks.any_due(session, now=parts.now())
    if more:
        parts.wakeups.predict()
    else:
        for project_id in sorted(touched):
            parts.wakeups.sync(project_id)
    if made:
        LOG.info("made %s second looks", made)
    return made


def _look_again(parts: Parts, models: LoadedModels, due: DueSecondLook) -> bool:
    with parts.database.transaction() as session:
        tile = session.get_one(Tile, due.tile_id)
        um_per_px = images.tile_um_per_px(session, tile)
        regions = predictions.regions_of(session, [due.prediction_id]).get(due.prediction_id, [])
    try:
        image = read_image(parts.blobs.get(due.png_blob))
    except (BadInput, NotFound) as error:
        set_aside_tile(parts.database, tile.id, error, actor=parts.holder)
        _release(parts, due)
        return False
    try:
        gain = models.predictor(due.model_blob).second_look(image, um_per_px=um_per_px)
    except (BadInput, NotFound) as error:
        LOG.warning("model=%s gets no second looks: %s", due.model_id, error)
        with parts.database.transaction() as session:
            second_looks.give_up(session, due.project_id, due.model_id)
        _release(parts, due)
        return False
    bald = [mean_inside(gain, region.polygon, tile.size_px) for region in regions]
    with parts.database.transaction() as session:
        kept = second_looks.keep(session, due.prediction_id, bald)
    _release(parts, due)
    return kept


def _release(parts: Parts, due: DueSecondLook) -> None:
    with parts.database.transaction() as session:
        predictions.release(session, [due.tile_id], holder=parts.holder)
