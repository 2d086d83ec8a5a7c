"""Second looks: which of the first entries wait for one, who makes it, and keeping it once.

After each champion's first order the best few heads of tiles are looked at again, at several times the cost of a
prediction, and then ranked once more. Rows say what is due: an order made for a champion whose entries have not had
their second looks. Nothing is due under a blank champion, which has nothing to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from backend.store import projects
from backend.store.tables import Model, Prediction, Project, SecondLook, Tile


@dataclass(frozen=True)
class DueSecondLook:
    """One prediction that waits for its second look."""

    prediction_id: int
    tile_id: int
    png_blob: str
    project_id: int
    model_id: int
    model_blob: str


# The first entries that wait, in their order; of these, tiles whose prediction has regions and no second look yet.
# Audit tiles are shown without regions, so there is nothing to say of them.
_LACKING = """
    WITH best AS (
        SELECT e.tile_id, e.rank FROM queue_entry e
        WHERE e.project_id = :project AND e.generation = :generation AND e.state IN ('open', 'leased')
          AND e.stratum <> 'audit'
        ORDER BY e.rank LIMIT :count
    )
    SELECT q.id, t.id, t.png_blob FROM best b
    JOIN tile t ON t.id = b.tile_id AND t.state = 'ready'
    JOIN image i ON i.id = t.image_id AND i.state = 'ready'
    JOIN prediction q ON q.tile_id = t.id AND q.model_id = :model
    WHERE EXISTS (SELECT 1 FROM region r WHERE r.prediction_id = q.id)
      AND NOT EXISTS (SELECT 1 FROM second_look s WHERE s.prediction_id = q.id)
"""
_FREE = text(
    _LACKING + "AND (t.lease_until IS NULL OR t.lease_until < :now) ORDER BY b.rank LIMIT 1 FOR UPDATE OF t SKIP LOCKED"
)
_ANY = text(_LACKING + "LIMIT 1")


def claim_due(session: Session, *, now: datetime, holder: str, lease_s: float) -> DueSecondLook | None:
    """Take a timed claim on the first one that waits, as on a prediction; two workers never take the same tile."""
    for project, model, wanted in _waiting(session):
        found = session.execute(_FREE, {**wanted, "now": now}).first()
        if found is None:
            continue
        prediction_id, tile_id, png_blob = found
        until = now + timedelta(seconds=lease_s)
        session.execute(update(Tile).where(Tile.id == tile_id).values(lease_holder=holder, lease_until=until))
        assert model.blob is not None
        return DueSecondLook(prediction_id, tile_id, png_blob, project.id, model.id, model.blob)
    return None


def any_due(session: Session, *, now: datetime) -> bool:
    """Whether a second look is missing that nobody is making."""
    return any(session.execute(_FREE, {**wanted, "now": now}).first() for _, _, wanted in _waiting(session))


def pending(session: Session, project_id: int) -> bool:
    """Whether a project's order will be made once more, when its first entries have had their second looks."""
    return bool(_waiting(session, project_id))


def keep(session: Session, prediction_id: int, bald: Sequence[float]) -> bool:
    """Store one, a figure for each region in the order of their ids; False when it is here already."""
    made = session.scalar(
        insert(SecondLook)
        .values(prediction_id=prediction_id, bald=list(bald))
        .on_conflict_do_nothing()
        .returning(SecondLook.id)
    )
    return made is not None


def settle(session: Session, project_id: int) -> bool:
    """Note that all first entries have theirs, once; True when the order is stale thereby.

    To be called where nobody ranks at the same time.
    """
    for project, model, wanted in _waiting(session, project_id):
        if session.execute(_ANY, wanted).first() is not None:
            return False
        project.second_looked_model_id = model.id
        made = select(SecondLook.id).join(Prediction, Prediction.id == SecondLook.prediction_id)
        if session.scalar(made.where(Prediction.model_id == model.id).limit(1)) is not None:
            project.ranked_model_id = None
            return True
    return False


def give_up(session: Session, project_id: int, model_id: int) -> None:
    """Wait no longer for the second looks of a model that cannot be loaded; the order stays as it is."""
    session.execute(update(Project).where(Project.id == project_id).values(second_looked_model_id=model_id))


def bald_of(session: Session, model_id: int, tile_ids: Sequence[int] | None = None) -> dict[int, list[float]]:
    """By tile: BALD of its regions in the order of their ids, where one model took a second look; of some tiles."""
    rows = session.execute(
        select(Prediction.tile_id, SecondLook.bald)
        .join(SecondLook, SecondLook.prediction_id == Prediction.id)
        .where(Prediction.model_id == model_id, *(() if tile_ids is None else (Prediction.tile_id.in_(tile_ids),)))
    )
    return {tile_id: list(bald) for tile_id, bald in rows}


def _waiting(session: Session, project_id: int | None = None) -> list[tuple[Project, Model, dict[str, Any]]]:
    """Projects whose live order is their champion's and has not had its second looks, with what is asked for."""
    query = (
        select(Project, Model)
        .join(Model, Model.id == Project.champion_id)
        .where(
            Model.blob.is_not(None),
            Project.ranked_model_id == Model.id,
            Project.second_looked_model_id.is_distinct_from(Model.id),
        )
        .order_by(Project.id)
    )
    rows = session.execute(query if project_id is None else query.where(Project.id == project_id)).all()
    found = []
    for project, model in rows:
        policy = projects.policy_of(project)
        count = policy.second_look_heads * policy.head_size
        wanted = {
            "project": project.id,
            "generation": project.queue_generation,
            "count": count,
            "model": model.id,
        }
        if count:
            found.append((project, model, wanted))
    return found
