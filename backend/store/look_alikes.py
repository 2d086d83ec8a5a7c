"""What tells of artefacts in a project: the tiles that are marked as such, and those that people accepted."""

from __future__ import annotations

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.store.images import tile_split
from backend.store.tables import Image, Mask, Prediction, Tile
from mpamatch.domain.look_alikes import Ints, Marks


def artefacts(session: Session, project_id: int, model_id: int) -> list[int]:
    """Train tiles that are marked and that the model has seen, by id; audit tiles shape no order."""
    rows = session.scalars(
        select(Tile.id)
        .join(Image, Image.id == Tile.image_id)
        .join(Prediction, (Prediction.tile_id == Tile.id) & (Prediction.model_id == model_id))
        .where(Tile.project_id == project_id, Tile.state == "artefact", Image.state == "ready", tile_split == "train")
        .order_by(Tile.id)
    )
    return list(rows)


def marks(session: Session, project_id: int, marked: list[int]) -> Marks:
    """The marked tiles with those that were accepted, of which nothing is read when none is marked."""
    return Marks(np.array(marked, np.int64), _accepted(session, project_id) if marked else np.zeros(0, np.int64))


def _accepted(session: Session, project_id: int) -> Ints:
    """Train tiles of which a person's mask counts, by id."""
    drawn = select(Mask.id).where(
        Mask.tile_id == Tile.id, Mask.withdrawn_at.is_(None), Mask.origin != "imported", Mask.reviewed_share > 0
    )
    rows = session.scalars(
        select(Tile.id)
        .join(Image, Image.id == Tile.image_id)
        .where(
            Tile.project_id == project_id,
            Tile.state == "ready",
            Image.state == "ready",
            tile_split == "train",
            drawn.exists(),
        )
        .order_by(Tile.id)
    )
    return np.array(list(rows), np.int64)
