"""Predictions of drawn tissue as a good model would have made them, stored the way a worker stores them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage
from sqlalchemy import select

from backend.actions.change_champion import promote
from backend.actions.keep_prediction import keep_prediction
from backend.clock import utc_now
from backend.store import projects
from backend.store.tables import Image, Model, Tile
from mpamatch.datasets import phantom
from mpamatch.domain.regions import find_regions
from tests.flows.stack import Stack

TAU = 0.95


@dataclass(frozen=True)
class StoredTile:
    """One tile with what was drawn, and what the model is made to say of it."""

    tile_id: int
    truth: np.ndarray
    predicted: np.ndarray


def store_predictions(stack: Stack, key: str, drawn: Path, *, number: int = 1) -> dict[int, StoredTile]:
    """A champion ``KEY-m1`` (or of another number) that has seen every tile of the project, and what it said, by tile.

    It overlooks the largest gland, takes every lumen for background, and is unsure wherever it is wrong.
    """
    data = phantom.open_phantom(drawn)
    items = {str(item.image): item for item in data.items("all")}
    with stack.database() as database:
        with database.transaction() as session:
            project = projects.choose(session, key)
            classes = projects.classes_of(project)
            model = Model(
                project_id=project.id, version=f"{key}-m{number}", kind="trained", state="candidate", blob=None
            )
            session.add(model)
            rows = list(session.execute(select(Tile, Image.uri).join(Image).where(Tile.project_id == project.id)))
        stored = {}
        for tile, uri in rows:
            truth = data.read_mask(items[uri])
            predicted = with_lumens(without_largest(truth))
            confidence = np.where(ndimage.gaussian_filter((truth != predicted).astype(float), 2.0) > 0.4, 0.6, 0.99)
            probabilities = np.empty((classes.count, *truth.shape), np.float32)
            probabilities[:] = (1 - confidence) / (classes.count - 1)
            np.put_along_axis(probabilities, predicted[None].astype(np.int64), confidence[None].astype(np.float32), 0)
            keep_prediction(
                database,
                stack.blobs,
                tile_id=tile.id,
                model_id=model.id,
                class_map=predicted,
                confidence=probabilities.max(axis=0),
                # Boxes as small as their regions, so that most of the picture can be compared beside them.
                regions=find_regions(probabilities, TAU, min_side_px=0, most_overlap=1.0),
            )
            stored[tile.id] = StoredTile(tile.id, truth, predicted)
        with database.transaction() as session:
            project = projects.choose(session, key)
            now_serving = session.get_one(Model, model.id)
            promote(session, project, now_serving, actor="test", now=utc_now(), provisional=True, why="made for a test")
    return stored


def without_largest(truth: np.ndarray) -> np.ndarray:
    """What is left when the largest area is overlooked; all of it when there is only one."""
    labels, count = ndimage.label(truth)
    if count < 2:
        return truth.copy()
    areas = np.bincount(labels.reshape(-1))[1:]
    return np.where(labels == 1 + areas.argmax(), 0, truth).astype(np.uint8)


def with_lumens(mask: np.ndarray) -> np.ndarray:
    """Each area with a hole around the place deepest inside it, as a lumen lies in its gland."""
    labels, count = ndimage.label(mask)
    depth = ndimage.distance_transform_edt(mask)
    found = mask.copy()
    rows, columns = np.mgrid[: mask.shape[0], : mask.shape[1]]
    for number in range(1, count + 1):
        inside = np.where(labels == number, depth, 0)
        y, x = np.unravel_index(inside.argmax(), inside.shape)
        found[(rows - y) ** 2 + (columns - x) ** 2 <= (inside.max() * 0.4) ** 2] = 0
    return found
