"""Set aside what cannot be read any more, so that the rest goes on without it: a tile's files, a prediction, a model.

A tile takes its whole image with it, since that is what people see and mend. A prediction is made again. A model that
cannot be loaded will never be judged or serve again: the champion before it takes its place.
"""

from __future__ import annotations

import logging
from datetime import datetime

from sqlalchemy.orm import Session

from backend.actions.change_champion import promote
from backend.store import events, images, predictions, runs
from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from backend.store.tables import Model, Prediction, Project, Run, Tile
from mpamatch.domain.states import check_move
from mpamatch.errors import BadInput, MpamatchError, NotFound

LOG = logging.getLogger("mpamatch.set_aside")


def set_aside_tile(database: Database, tile_id: int, error: MpamatchError, *, actor: str) -> None:
    """Quarantine a tile's image, naming the tile and what is wrong with it."""
    with database.transaction() as session:
        tile = session.get_one(Tile, tile_id)
        LOG.warning("tile=%s image=%s set aside: %s", tile.id, tile.image_id, error)
        problem = f"tile {tile.id}: {error.item} {error.problem}; register the image again once its file is whole"
        images.quarantine(session, tile.image_id, problem, actor=actor)


def forget_prediction(database: Database, prediction_id: int, error: MpamatchError, *, actor: str) -> None:
    """Drop a prediction whose rasters cannot be read: the predict worker makes it again."""
    with database.transaction() as session:
        prediction = session.get(Prediction, prediction_id)
        if prediction is None:
            return
        LOG.warning("tile=%s prediction=%s is made again: %s", prediction.tile_id, prediction.id, error)
        events.record(
            session,
            project_id=session.get_one(Tile, prediction.tile_id).project_id,
            actor=actor,
            what="prediction lost",
            subject=f"prediction:{prediction.id}",
            before={"tile": prediction.tile_id, "model": prediction.model_id},
            after={"problem": str(error)},
        )
        predictions.forget(session, prediction_id)


def give_up_model(
    database: Database, blobs: BlobStore, model_id: int, error: MpamatchError, *, actor: str, now: datetime
) -> bool:
    """Reject a model whose weights cannot be read: a candidate's run fails, a champion steps down for the one before.

    False for a champion with no readable one before it, which stays: its predictions are still there, and nothing
    else could serve.
    """
    with database.transaction() as session:
        model = session.get_one(Model, model_id)
        run = None if model.run_id is None else session.get_one(Run, model.run_id, with_for_update=True)
        project = session.get_one(Project, model.project_id, with_for_update=True)
        session.refresh(model)
        if model.state == "champion" and not _step_down(session, blobs, project, model, error, actor=actor, now=now):
            LOG.error("model=%s cannot be read and no earlier champion is whole: %s", model.version, error)
            return False
        if model.state == "rejected":
            return True
        before = model.state
        check_move("model", before, "rejected")
        model.state = "rejected"
        events.record(
            session,
            project_id=project.id,
            actor=actor,
            what="model given up",
            subject=f"model:{model.id}",
            before={"state": before},
            after={"state": "rejected", "problem": str(error)},
        )
        if run is not None and run.state == "judging":
            runs.move(session, run, "failed", actor=actor, problem=str(error), finished_at=now)
    return True


def _step_down(
    session: Session,
    blobs: BlobStore,
    project: Project,
    broken: Model,
    error: MpamatchError,
    *,
    actor: str,
    now: datetime,
) -> bool:
    """Let the nearest earlier champion that is whole serve; False when there is none."""
    earlier = broken
    while earlier.previous_id is not None:
        earlier = session.get_one(Model, earlier.previous_id)
        if earlier.state == "retired" and _is_whole(blobs, earlier):
            keep = earlier.previous_id
            why = f"{broken.version} cannot be read: {error}"
            promote(session, project, earlier, actor=actor, now=now, provisional=earlier.provisional, why=why)
            earlier.previous_id = keep  # a rollback goes further back, not to the broken one
            LOG.error("champion=%s instead of %s: %s", earlier.version, broken.version, error)
            return True
    return False


def _is_whole(blobs: BlobStore, model: Model) -> bool:
    if model.blob is None:
        return model.kind == "blank"
    try:
        blobs.get(model.blob)
    except (BadInput, NotFound):
        return False
    return True
