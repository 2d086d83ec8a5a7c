"""Judge a candidate on the audit masks: the same tiles for it, the champion and the best champion so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
from sqlalchemy.orm import Session

from backend.actions.change_champion import promote
from backend.actions.set_aside import forget_prediction, set_aside_tile
from backend.store import events, masks, models, predictions, projects, runs
from backend.store.blobs import BlobStore
from backend.store.masks import CurrentMask
from backend.store.sessions import Database
from backend.store.tables import Model, Prediction, Project, Run
from mpamatch.domain.gate import TileScore, Verdict, judge
from mpamatch.domain.metrics import confusion, mean_dice
from mpamatch.errors import BadInput, NotFound
from mpamatch.files.rasters import decode_raster


def judge_candidate(database: Database, blobs: BlobStore, run_id: int, *, now: datetime) -> Verdict | None:
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
    truths = _truths(database, blobs, audit)
    maps = {model_id: _maps(database, blobs, found, audit) for model_id, found in rasters.items()}
    if truths is None or any(found is None for found in maps.values()):
        return None  # what cannot be read was set aside or is made again: the next look judges without it
    scores = {model_id: _scores(found or [], audit, truths, class_count) for model_id, found in maps.items()}
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
        collapsed=_collapsed(candidate),
        never_provisional="adapted" in (candidate.metrics or {}),  # as promoting by hand tells one
    )
    with database.transaction() as session:
        carried_out = _carry_out(session, run_id, candidate.id, champion.id, verdict, now=now)
    return verdict if carried_out else None


def _rasters(session: Session, model: Model, audit: Sequence[CurrentMask]) -> dict[int, Prediction]:
    return predictions.by_version(session, model.project_id, model.version, [m.tile_id for m in audit])


def _truths(database: Database, blobs: BlobStore, audit: Sequence[CurrentMask]) -> list[np.ndarray] | None:
    """The audit masks; None when one was lost: its tile is set aside, since nothing can be judged on it."""
    truths, lost = [], False
    for mask in audit:
        try:
            truths.append(decode_raster(blobs.get(mask.blob)))
        except (BadInput, NotFound) as error:
            named = type(error)(f"mask {mask.mask_id}", f"{error.item} {error.problem}", error.remedy)
            set_aside_tile(database, mask.tile_id, named, actor="gate")
            lost = True
    return None if lost else truths


def _maps(
    database: Database, blobs: BlobStore, found: Mapping[int, Prediction], audit: Sequence[CurrentMask]
) -> list[np.ndarray] | None:
    """One model's class maps of the audit tiles; None when one was lost: it is made again."""
    maps, lost = [], False
    for mask in audit:
        prediction = found[mask.tile_id]
        try:
            maps.append(decode_raster(blobs.get(prediction.class_blob)))
        except (BadInput, NotFound) as error:
            forget_prediction(database, prediction.id, error, actor="gate")
            lost = True
    return None if lost else maps


def _scores(
    maps: Sequence[np.ndarray], audit: Sequence[CurrentMask], truths: Sequence[np.ndarray], class_count: int
) -> list[TileScore]:
    return [
        TileScore(m.tile_id, m.group, confusion(class_map, truth, class_count))
        for m, class_map, truth in zip(audit, maps, truths, strict=True)
    ]


def _collapsed(candidate: Model) -> bool:
    """What its training told: it was shown one class alone, or answered one class on tiles kept back that hold more.

    The audit masks say so too, once there are any.
    """
    metrics = candidate.metrics or {}
    holdout = metrics.get("holdout") or {}
    labelled, predicted = metrics.get("labelled_classes"), holdout.get("predicted_classes")
    there = sum(c["pixels"] > 0 for c in holdout.get("per_class", ()))
    shown_one = labelled is not None and len(labelled) == 1
    return shown_one or (there > 1 and predicted is not None and len(predicted) == 1)


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
