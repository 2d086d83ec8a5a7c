"""The whole story of a tile: what each model said of it, why it stood in the queue, who labelled it when, which runs
used which version of its mask, and what came of them.

What the dashboard's page of a tile shows is read by the same function; this adds what is past.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from backend.actions.see_tile import SeenTile, see_tile
from backend.store import projects
from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from backend.store.tables import Annotation, Event, Image, Mask, Model, Prediction, Project, Region, Run, Task, Tile
from mpamatch.errors import MpamatchError, NotFound


@dataclass(frozen=True)
class ToldPrediction:
    """What one model said. Shares are of the tile's pixels by class; shares and regions are None while it is blind."""

    version: str
    model_state: str
    made_at: datetime
    class_shares: dict[str, float] | None
    regions: int | None


@dataclass(frozen=True)
class ToldTask:
    """One task in Label Studio, gone or not, and what it showed last."""

    ls_task_id: int
    origin: str
    state: str
    shown_version: str | None
    score: float | None
    why: str | None
    published_at: datetime
    opened_at: datetime | None


@dataclass(frozen=True)
class ToldRun:
    """A run that saw the tile. ``used``: as a label, in the pool, as both (a partly reviewed tile), or to judge.

    ``verdict`` is None while there is none; ``first`` says whether the mask was new to it.
    """

    number: int
    state: str
    candidate: str
    used: str
    mask_version: int | None
    first: bool
    verdict: str | None
    reasons: tuple[str, ...]
    created_at: datetime


@dataclass(frozen=True)
class ToldEvent:
    """One line of the log about the tile, its image or an annotation of it."""

    at: datetime
    actor: str
    what: str
    subject: str


@dataclass(frozen=True)
class Story:
    """Everything, the newest first. ``runs_unread``: older runs whose snapshots were not looked into."""

    project: str
    tile: SeenTile
    generation: int
    ranked_at: datetime | None
    predictions: tuple[ToldPrediction, ...]
    tasks: tuple[ToldTask, ...]
    runs: tuple[ToldRun, ...]
    runs_unread: int
    events: tuple[ToldEvent, ...]


def explain_tile(database: Database, blobs: BlobStore, tile_id: int, *, runs_limit: int) -> Story:
    """The latest ``runs_limit`` runs are looked into: each has its own snapshot to read. Raises NotFound."""
    with database.transaction() as session:
        tile = session.get(Tile, tile_id) if 0 < tile_id < 1 << 63 else None
        if tile is None:
            raise NotFound(f"tile {tile_id}", "does not exist", "see `mpamatch queue list`")
        project = projects.get(session, tile.project_id)
        seen = see_tile(session, project, tile_id)
        all_runs = session.scalars(select(Run).where(Run.project_id == project.id).order_by(Run.id.desc())).all()
        found = Story(
            project=project.key,
            tile=seen,
            generation=project.queue_generation,
            ranked_at=_ranked_at(session, project),
            predictions=_predictions(session, project, tile, blind=seen.blind),
            tasks=_tasks(session, tile_id),
            runs=tuple(
                told
                for run in all_runs[:runs_limit]
                if (told := _told(session, blobs, run, tile_id, seen.split)) is not None
            ),
            runs_unread=max(0, len(all_runs) - runs_limit),
            events=_events(session, tile),
        )
    return found


def _ranked_at(session: Session, project: Project) -> datetime | None:
    subject = f"queue:{project.queue_generation}"
    return session.scalar(select(func.max(Event.at)).where(Event.project_id == project.id, Event.subject == subject))


def _predictions(session: Session, project: Project, tile: Tile, *, blind: bool) -> tuple[ToldPrediction, ...]:
    counted = select(func.count()).where(Region.prediction_id == Prediction.id).scalar_subquery()
    rows = session.execute(
        select(Prediction, Model.version, Model.state, counted)
        .join(Model, Model.id == Prediction.model_id)
        .where(Prediction.tile_id == tile.id)
        .order_by(Prediction.id.desc())
    )
    names = projects.classes_of(project).names
    return tuple(
        ToldPrediction(
            version=version,
            model_state=state,
            made_at=prediction.created_at,
            class_shares=None if blind else _shares(prediction.class_areas, names),
            regions=None if blind else regions,
        )
        for prediction, version, state, regions in rows
    )


def _shares(areas: dict[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    whole = sum(areas.values()) or 1
    named = {names[int(i)] if i.isdigit() and int(i) < len(names) else i: area for i, area in areas.items()}
    return {name: area / whole for name, area in named.items()}


def _tasks(session: Session, tile_id: int) -> tuple[ToldTask, ...]:
    rows = session.scalars(select(Task).where(Task.tile_id == tile_id).order_by(Task.id.desc()))
    return tuple(
        ToldTask(
            ls_task_id=t.ls_task_id,
            origin=t.origin,
            state=t.state,
            shown_version=t.model_version,
            score=t.score_sent,
            why=t.why,
            published_at=t.published_at,
            opened_at=t.opened_at,
        )
        for t in rows
    )


def _told(session: Session, blobs: BlobStore, run: Run, tile_id: int, split: str) -> ToldRun | None:
    """None for a run that never saw the tile."""
    model = session.scalars(select(Model).where(Model.run_id == run.id)).one_or_none()
    if split == "audit":
        used, version = _judged_on(session, run, model, tile_id)
    else:
        used, version = _trained_on(blobs, run, tile_id)
    if used is None:
        return None
    first = session.scalar(
        select(Mask.id).where(Mask.tile_id == tile_id, Mask.version == version, Mask.first_run_id == run.id)
    )
    verdict = None if model is None else model.verdict
    return ToldRun(
        number=run.number,
        state=run.state,
        candidate=run.version,
        used=used,
        mask_version=version,
        first=first is not None,
        verdict=None if not verdict else "promoted" if verdict.get("promote") else "kept out",
        reasons=tuple(str(reason) for reason in (verdict or {}).get("reasons", ())),
        created_at=run.created_at,
    )


def _trained_on(blobs: BlobStore, run: Run, tile_id: int) -> tuple[str | None, int | None]:
    """From the frozen snapshot, not from what would be chosen now."""
    try:
        snapshot = json.loads(blobs.get(run.snapshot_blob))
    except MpamatchError:
        return "unknown: its snapshot cannot be read", None
    version = next((int(row["version"]) for row in snapshot["labelled"] if row["tile"] == tile_id), None)
    in_pool = any(row["tile"] == tile_id for row in snapshot["pool"])
    if version is not None:
        return ("as a label and in the pool" if in_pool else "as a label"), version
    return ("in the pool" if in_pool else None), None


def _judged_on(session: Session, run: Run, model: Model | None, tile_id: int) -> tuple[str | None, int | None]:
    """An audit tile judges the run's candidate by the mask that counted when the verdict was made."""
    if model is None or model.verdict is None or run.finished_at is None:
        return None, None
    predicted = select(Prediction.id).where(Prediction.tile_id == tile_id, Prediction.model_id == model.id)
    version = session.scalar(
        select(func.max(Mask.version)).where(
            Mask.tile_id == tile_id,
            Mask.created_at <= run.finished_at,
            or_(Mask.withdrawn_at.is_(None), Mask.withdrawn_at > run.finished_at),
        )
    )
    if version is None or session.scalar(predicted) is None:
        return None, None
    return "to judge the candidate", int(version)


def _events(session: Session, tile: Tile) -> tuple[ToldEvent, ...]:
    image = session.get_one(Image, tile.image_id)
    annotations = session.scalars(select(Annotation.id).where(Annotation.tile_id == tile.id)).all()
    subjects = [f"tile:{tile.id}", f"image:{image.id}", *(f"annotation:{number}" for number in annotations)]
    rows = session.scalars(
        select(Event).where(Event.project_id == tile.project_id, Event.subject.in_(subjects)).order_by(Event.id.desc())
    )
    return tuple(ToldEvent(at=e.at, actor=e.actor, what=e.what, subject=e.subject) for e in rows)
