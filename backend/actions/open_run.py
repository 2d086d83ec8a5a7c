"""Open a run when the rules say so: freeze exactly which masks and pool tiles it may see.

Labels that arrive afterwards belong to the next run; a mask's ``first_run_id`` is the ledger that proves it.
"""

from __future__ import annotations

import json
from datetime import datetime

from sqlalchemy.orm import Session

from backend.store import events, images, masks, models, projects, runs
from backend.store.blobs import BlobFolder
from backend.store.sessions import Database
from backend.store.tables import Project, Run
from mpamatch.domain.recipe import Recipe
from mpamatch.domain.schedule import RetrainDecision, RetrainFacts, decide


def facts_of(session: Session, project: Project) -> RetrainFacts:
    """What the decision needs to know, at one moment."""
    current = masks.current(session, project.id)
    changed = [m for m in current if m.first_run_id is None]
    latest = runs.latest(session, project.id)
    return RetrainFacts(
        changed_tiles=len(changed),
        first_change_at=min((m.created_at for m in changed), default=None),
        last_change_at=max((m.created_at for m in changed), default=None),
        open_run=runs.open_run(session, project.id) is not None,
        requested=project.requested_run,  # type: ignore[arg-type]  # the column holds only these words
        labelled_tiles=sum(m.split == "train" for m in current),
        last_run_at=latest.created_at if latest else None,
    )


def request_run(session: Session, project: Project, *, by: str) -> None:
    """Note that somebody asked; the request is taken by the next decision, also when it must wait for an open run."""
    project.requested_run = by
    events.record(session, project_id=project.id, actor=by, what="run requested", subject=f"project:{project.id}")


def open_run(
    database: Database, blobs: BlobFolder, project_id: int, *, now: datetime
) -> tuple[Run | None, RetrainDecision]:
    """Decide, and if so freeze the snapshot and queue the run. Two callers at once make one run."""
    with database.transaction() as session:
        images.lock_registration(session, project_id)
        project = projects.get(session, project_id)
        decision = decide(now, facts_of(session, project), projects.policy_of(project).trigger)
        if not decision.start or decision.trigger is None:
            return None, decision
        run = _queue_run(session, blobs, project, decision)
        project.requested_run = None
        return run, decision


def _queue_run(session: Session, blobs: BlobFolder, project: Project, decision: RetrainDecision) -> Run:
    champion = projects.champion(session, project)
    current = masks.current(session, project.id)
    supervised = {m.tile_id: m for m in current if m.split == "train"}
    # A partly reviewed tile is in both streams; one where a person could not tell is left out of both.
    partly = {m.tile_id for m in current if m.reviewed_share < 1}
    reviewed = masks.labelled_tile_ids(session, project.id) - partly
    snapshot = {
        "labelled": [
            {
                "tile": m.tile_id,
                "mask": m.mask_id,
                "version": m.version,
                "mask_blob": m.blob,
                "png_blob": m.png_blob,
                "group": m.group,
            }
            for m in supervised.values()
        ],
        "pool": [
            {"tile": t.tile_id, "png_blob": t.png_blob, "group": t.group}
            for t in images.pool(session, project.id, split="train")
            if t.tile_id not in reviewed
        ],
        "start_model": champion.id if champion.blob is not None else None,
    }
    recipe = Recipe.for_profile(projects.policy_of(project).train_profile)
    latest = runs.latest(session, project.id)
    run = Run(
        project_id=project.id,
        number=1 if latest is None else latest.number + 1,
        trigger=decision.trigger,
        reasons=list(decision.reasons),
        recipe=recipe.to_json(),
        recipe_hash=recipe.sha256(),
        snapshot_blob=blobs.put(json.dumps(snapshot, sort_keys=True).encode()),
        version=models.next_version(session, project),
        state="queued",
        attempt=0,
    )
    session.add(run)
    session.flush()
    masks.count_in_run(session, run.id, [m.mask_id for m in current])
    events.record(
        session,
        project_id=project.id,
        actor=decision.trigger or "rules",
        what="run queued",
        subject=f"run:{run.id}",
        after={"labelled": len(snapshot["labelled"]), "pool": len(snapshot["pool"]), "reasons": list(decision.reasons)},  # type: ignore[arg-type]
    )
    return run
