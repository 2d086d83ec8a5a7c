"""What every benchmark's project has: a trained champion, and what it said of a tile. Not a benchmark itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sqlalchemy.orm import Session

from backend.actions.keep_prediction import keep_prediction
from backend.store import projects
from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from backend.store.tables import Model, Project
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy
from mpamatch.domain.regions import find_regions


def add_project(
    session: Session, classes: Sequence[str], version: str, policy: Policy | None = None
) -> tuple[Project, Model]:
    """A project and its champion, in the place of the blank one that a new project has."""
    project = projects.create(
        session, title="Bench", classes=ClassSet.from_names(list(classes)), policy=policy or Policy(), seed=1
    )
    projects.champion(session, project).state = "retired"
    session.flush()
    model = Model(project_id=project.id, version=version, kind="trained", state="champion")
    session.add(model)
    session.flush()
    project.champion_id = model.id
    return project, model


def keep_answer(
    database: Database, blobs: BlobStore, tile_id: int, model_id: int, probabilities: npt.NDArray[np.float32]
) -> None:
    """Store what a model says of a tile, float32 (K, H, W); regions are sought on every second pixel, as the light
    model answers."""
    keep_prediction(
        database,
        blobs,
        tile_id=tile_id,
        model_id=model_id,
        class_map=probabilities.argmax(axis=0).astype(np.uint8),
        confidence=probabilities.max(axis=0),
        regions=find_regions(probabilities[:, ::2, ::2], Policy().tau, scale=2.0),
    )
