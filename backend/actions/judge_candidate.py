"""Judge a candidate on the audit masks: the same tiles for it, the champion and the best champion so far."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import numpy as np
from sqlalchemy.orm import Session

from backend.actions.change_champion import promote
from backend.store import events, masks, models, predictions, projects, runs
from backend.store.blobs import BlobFolder
from backend.store.masks import CurrentMask
from backend.store.sessions import Database
from backend.store.tables import Model, Project, Run
from mpamatch.domain.gate import TileScore, Verdict, judge
from mpamatch.domain.metrics import confusion, mean_dice
from mpamatch.files.rasters import decode_raster


def judge_candidate(database: Database, blobs: BlobFolder, run_id: int, *, now: datetime) -> Verdict | None:
    """The verdict, once every model involved has seen every audit mask; None while predictions are missing."""
    with database.transaction() as session:
        run = session.get_one(Run, run_id)
        candidate = models.candidate_of(session, run_id)
        if run.state != "judging" or candidate is None:
            return None
        if candidate.state != "candidate":  # somebody let it serve by hand: there is nothing left to judge
            runs.move(session, run, "done", actor="gate", finished_at=now)
            return None
        project = projects.get(session, run.project_id)
        champion = projects.champion(session, project)
        earlier = list(models.promoted(session, project.id))
        audit = [m for m in masks.current(session, project.id) if m.split == "audit"]
        rasters = {m.id: _rasters(session, m, audit) for m in [candidate, champion, *earlier]}
        policy = projects.policy_of(project)
        class_count = projects.classes_of(project).count
        seed = project.seed
    if any(len(found) < len(audit) for found in rasters.values()):
        return None
    truths = [decode_raster(blobs.get(m.blob)) for m in audit]
    scores = {model_id: _scores(blobs, found, audit, truths, class_count) for model_id, found in rasters.items()}
    best = max(earlier, key=lambda m: _pooled_dice(scores[m.id]), default=None)
    kind = "blank" if champion.kind == "blank" else "starter" if champion.kind == "starter" else "judged"
    if kind == "judged" and champion.provisional:
        kind = "provisional"
    verdict = judge(
        scores[candidate.id],
        scores[champion.id],
        None if best is None else scores[best.id],
        policy.gate,
        seed=seed,
        champion_kind=kind,  # type: ignore[arg-type]
    )
    with database.transaction() as session:
        carried_out = _carry_out(session, run_id, candidate.id, champion.id, verdict, now=now)
    return verdict if carried_out else None


def _rasters(session: Session, model: Model, audit: Sequence[CurrentMask]) -> dict[int, str]:
    found = predictions.by_version(session, model.project_id, model.version, [m.tile_id for m in audit])
    return {tile_id: p.class_blob for tile_id, p in found.items()}


def _scores(
    blobs: BlobFolder,
    rasters: dict[int, str],
    audit: Sequence[CurrentMask],
    truths: Sequence[np.ndarray],
    class_count: int,
) -> list[TileScore]:
    return [
        TileScore(m.tile_id, m.group, confusion(decode_raster(blobs.get(rasters[m.tile_id])), truth, class_count))
        for m, truth in zip(audit, truths, strict=True)
    ]


def _pooled_dice(scores: Sequence[TileScore]) -> float:
    if not scores:
        return 0.0
    return mean_dice(np.sum([s.confusion for s in scores], axis=0))


def _carry_out(
    session: Session, run_id: int, candidate_id: int, champion_id: int, verdict: Verdict, *, now: datetime
) -> bool:
    run = session.get_one(Run, run_id, with_for_update=True)
    candidate = session.get_one(Model, candidate_id)
    project = session.get_one(Project, run.project_id, with_for_update=True)
    if run.state != "judging" or project.champion_id != champion_id:
        return False  # somebody judged it already, or rolled back meanwhile: judge again against the present champion
    stored = {
        "promote": verdict.promote,
        "provisional": verdict.provisional,
        "reasons": list(verdict.reasons),
        "figures": verdict.figures,
    }
    candidate.verdict = stored
    if verdict.promote:
        promote(
            session,
            project,
            candidate,
            actor="gate",
            now=now,
            provisional=verdict.provisional,
            why="; ".join(verdict.reasons),
        )
    else:
        candidate.state = "rejected"
        events.record(
            session,
            project_id=project.id,
            actor="gate",
            what="candidate rejected",
            subject=f"model:{candidate.id}",
            after={"reasons": list(verdict.reasons)},
        )
    runs.move(session, run, "done", actor="gate", finished_at=now)
    return True
