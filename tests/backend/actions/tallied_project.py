"""A project with champions, audit tiles, tiles kept back and people's labels, made through the store."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from backend.actions.keep_prediction import keep_prediction
from backend.store import events, projects
from backend.store.tables import Annotation, Mask, Model, Project, Run, Tile
from mpamatch.domain.recipe import Recipe
from mpamatch.files.rasters import encode_raster
from tests.builders import Installation, disc

NOW = datetime(2026, 3, 1, tzinfo=UTC)
FIGURES = {"confidence": 0.9, "audit_tiles": 12, "audit_groups": 4}


def run_of(
    made: Installation, number: int, *, labelled: int = 0, held: list[int] | None = None, state: str = "done"
) -> int:
    """A run that is over, with what it kept back; its number of labelled tiles is in the log. Returns its id."""
    recipe = Recipe.for_profile("demo")
    with made.database.transaction() as session:
        run = Run(
            project_id=made.project_id,
            number=number,
            trigger="labels",
            reasons=[],
            recipe=recipe.to_json(),
            recipe_hash=recipe.sha256(),
            snapshot_blob="0" * 64,
            version=f"test-glands-m{number}",
            state=state,
            metrics={"held_back": {"by": "group", "tiles": held or []}},
        )
        session.add(run)
        session.flush()
        after = {"labelled": labelled, "pool": 9}
        events.record(
            session,
            project_id=made.project_id,
            actor="labels",
            what="run queued",
            subject=f"run:{run.id}",
            after=after,
        )
        return run.id


def judged(
    made: Installation,
    version: str,
    run_id: int | None,
    *,
    promote: bool = True,
    difference: float | None = None,
    reach: float | None = 0.01,
) -> Model:
    """A model as a verdict leaves it: in charge or kept out, with the event that says so."""
    figures: dict[str, Any] = {**FIGURES, "difference": difference}
    if difference is not None and reach is not None:
        figures |= {"lower": difference - reach, "upper": difference + reach}
    with made.database.transaction() as session:
        project = session.get_one(Project, made.project_id)
        before = projects.champion(session, project)
        if promote:
            before.state = "retired"
            session.flush()
        model = Model(
            project_id=project.id,
            version=version,
            kind="trained",
            state="champion" if promote else "rejected",
            run_id=run_id,
            previous_id=before.id if promote else None,
            promoted_at=NOW if promote else None,
            verdict={"promote": promote, "reasons": [], "figures": figures},
        )
        session.add(model)
        session.flush()
        if promote:
            project.champion_id = model.id
        events.record(
            session,
            project_id=project.id,
            actor="gate",
            what="champion changed" if promote else "candidate rejected",
            subject=f"model:{model.id}",
            before={"champion": before.version} if promote else None,
            after={"champion": version} if promote else {"reasons": []},
        )
        return model


def predict(made: Installation, model: Model, tiles: list[Tile], class_map: np.ndarray, confidence: float) -> None:
    """One answer for all these tiles."""
    for tile in tiles:
        keep_prediction(
            made.database,
            made.blobs,
            tile_id=tile.id,
            model_id=model.id,
            class_map=class_map,
            confidence=np.full(class_map.shape, confidence, np.float32),
            regions=(),
        )


def label(
    made: Installation,
    tile: Tile,
    mask: np.ndarray,
    *,
    annotator: int | None = 1,
    holder: str | None = None,
    seconds: float | None = 20.0,
    shown: Model | None = None,
    prediction_id: int | None = None,
    run_id: int | None = None,
    origin: str = "annotated",
    state: str = "present",
) -> int:
    """A person's label of a tile with its mask, later than all before; returns the mask's id. ``holder``: who took the
    tile from the queue, instead of the ``annotator`` in Label Studio."""
    with made.database.transaction() as session:
        count = session.query(Annotation).count()
        annotation = Annotation(
            project_id=made.project_id,
            tile_id=tile.id,
            ls_annotation_id=1000 + count if holder is None else None,
            ls_task_id=1000 + tile.id if holder is None else None,
            holder=holder,
            result_blob=made.blobs.put(b"[]"),
            annotator=annotator if holder is None else None,
            lead_time_s=seconds,
            shown_version=None if shown is None else shown.version,
            updated_at=NOW + timedelta(minutes=count),
            state=state,
        )
        session.add(annotation)
        session.flush()
        versions = session.query(Mask).filter(Mask.tile_id == tile.id).count()
        row = Mask(
            tile_id=tile.id,
            version=versions + 1,
            origin=origin,
            blob=made.blobs.put(encode_raster(mask)),
            reviewed_share=float((mask < 254).mean()),
            annotation_id=annotation.id,
            prediction_id=prediction_id,
            first_run_id=run_id,
        )
        session.add(row)
        session.flush()
        return row.id


def shifted(by: int) -> np.ndarray:
    """The disc, so many pixels further right."""
    return disc(x=32 + by)
