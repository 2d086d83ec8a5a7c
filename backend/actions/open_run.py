"""Open a run when the rules say so: freeze exactly which masks and pool tiles it may see.

Labels that arrive afterwards belong to the next run; a mask's ``first_run_id`` is the ledger that proves it. A run that
adapts the champion's norms sees pool tiles alone, and no mask is counted in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import update
from sqlalchemy.orm import Session

from backend.store import events, images, masks, models, projects, runs, schedules
from backend.store.blobs import BlobStore
from backend.store.sessions import Database
from backend.store.tables import Project, Run
from mpamatch.domain.adaptation import AdaptationFacts, check_adaptable, draw_tiles
from mpamatch.domain.policy import Policy
from mpamatch.domain.recipe import Recipe
from mpamatch.domain.schedule import RetrainDecision, RetrainFacts, TriggerPolicy, decide
from mpamatch.errors import Conflict
from mpamatch.files.starter import starter_archive, starter_classes


def facts_of(
    session: Session, project: Project, *, now: datetime, current: Sequence[masks.CurrentMask] | None = None
) -> RetrainFacts:
    """What the decision needs to know, at one moment; ``current``: its masks, where they were read already."""
    current = masks.current(session, project.id) if current is None else current
    changed = [m for m in current if m.first_run_id is None]
    latest = runs.latest_training(session, project.id)
    schedule = schedules.of(session, project.id)
    cron, due = schedules.plan_of(schedule).cron, None if schedule is None else schedule.next_due_at
    return RetrainFacts(
        changed_tiles=len(changed),
        first_change_at=min((m.created_at for m in changed), default=None),
        last_change_at=max((m.created_at for m in changed), default=None),
        returned_tiles=sum(m.returned for m in current),
        runs_without_model=runs.without_model_in_row(session, project.id),
        open_run=runs.open_run(session, project.id) is not None,
        requested=project.requested_run,  # type: ignore[arg-type]  # the column holds only these words
        labelled_tiles=sum(m.split == "train" for m in current),
        last_run_at=latest.created_at if latest else None,
        last_run=latest.number if latest else None,
        schedule_due=due,
        periods_due=cron.passed(due, now) if cron is not None and due is not None and due <= now else 1,
        adaptation_requested=project.requested_adaptation,
    )


def rules_of(session: Session, project: Project, *, policy: Policy | None = None) -> TriggerPolicy:
    """The rules that a decision follows: the project's policy (or another one, to try it), quiet hours, schedule."""
    plan = schedules.plan_of(schedules.of(session, project.id))
    return replace((policy or projects.policy_of(project)).trigger, quiet=plan.quiet, schedule_always=plan.always)


def request_run(session: Session, project: Project, *, by: str, actor: str | None = None) -> None:
    """Note that somebody asked; the request is taken by the next decision, also when it must wait for an open run.

    ``by``: the trigger's word; ``actor``: who it was, where more than that is known.
    """
    _note(session, project, requested_run=by)
    events.record(
        session, project_id=project.id, actor=actor or by, what="run requested", subject=f"project:{project.id}"
    )


def request_adaptation(session: Session, project: Project, *, actor: str = "manual") -> None:
    """Note that somebody wants the champion's norms adapted to the pool; taken as :func:`request_run` says.

    Raises Conflict where that cannot be, could not be judged, or is being done.
    """
    going_on = runs.open_run(session, project.id)
    if going_on is not None and going_on.trigger == runs.ADAPT:
        remedy = f"see `mpamatch runs show {going_on.number} --follow`"
        raise Conflict("adaptation", f"run {going_on.number} is at it", remedy)
    _check_adaptable(session, project)
    _note(session, project, requested_adaptation=True)
    events.record(
        session,
        project_id=project.id,
        actor=actor,
        what="run requested",
        subject=f"project:{project.id}",
        after={"adapt": True},
    )


def _note(session: Session, project: Project, **wish: str | bool) -> None:
    """Write a wish also where the row that was read holds it: a decision may have taken that one meanwhile."""
    session.execute(update(Project).where(Project.id == project.id).values(**wish))


def _check_adaptable(session: Session, project: Project) -> None:
    champion = projects.champion(session, project)
    audit_tiles, audit_groups = masks.audit_counts(session, project.id)
    facts = AdaptationFacts(
        champion=champion.version,
        has_weights=champion.blob is not None,
        audit_tiles=audit_tiles,
        audit_groups=audit_groups,
        any_unlabelled=masks.any_unlabelled(session, project.id),
    )
    check_adaptable(facts, projects.policy_of(project).gate)


def _drop_vain_adaptation(session: Session, project: Project) -> None:
    """A wish that waited may have become vain: the champion was rolled back, or audit masks were withdrawn."""
    if not project.requested_adaptation or runs.open_run(session, project.id) is not None:
        return
    try:
        _check_adaptable(session, project)
    except Conflict as error:
        project.requested_adaptation = False
        events.record(
            session,
            project_id=project.id,
            actor="rules",
            what="run request dropped",
            subject=f"project:{project.id}",
            after={"adapt": True, "reasons": [str(error)]},
        )


def open_run(
    database: Database, blobs: BlobStore, project_id: int, *, now: datetime
) -> tuple[Run | None, RetrainDecision]:
    """Decide, and if so freeze the snapshot and queue the run. Two callers at once make one run.

    A period of the schedule is answered in the same transaction: by the run, or by the reason why there is none.
    Raises Conflict when it was answered elsewhere meanwhile; nothing has happened then.
    """
    with database.transaction() as session:
        images.lock_registration(session, project_id)
        project = projects.get(session, project_id)
        _drop_vain_adaptation(session, project)
        current = masks.current(session, project_id)  # once: the project's row is locked meanwhile
        facts = facts_of(session, project, now=now, current=current)
        decision = decide(now, facts, rules_of(session, project))
        run = None
        if decision.start and decision.trigger == runs.ADAPT:
            run = _queue_adaptation(session, blobs, project, decision)
            project.requested_adaptation = False
        elif decision.start and decision.trigger is not None:
            run = _queue_training(session, blobs, project, decision, current)
            project.requested_run = None
        if decision.settles_due:
            _settle(session, project, run, decision, now)
        return run, decision


def _settle(session: Session, project: Project, run: Run | None, decision: RetrainDecision, now: datetime) -> None:
    row = schedules.of(session, project.id)
    outcome = decision.reasons[-1] if run is None else f"run {run.number}"
    if row is None or not schedules.settle(session, row, now=now, outcome=outcome, fired=run is not None):
        raise Conflict("schedule", "was answered or changed meanwhile", "the next look decides again")


def _encoder_blob(blobs: BlobStore, project: Project) -> str | None:
    """The starter, for a first run that begins with its encoder: frozen, since an upgrade may bring another one."""
    if projects.policy_of(project).start != "encoder":
        return None
    return blobs.put(starter_archive(starter_classes()))


def _masked_row(mask: masks.CurrentMask) -> dict[str, Any]:
    return {
        "tile": mask.tile_id,
        "mask": mask.mask_id,
        "version": mask.version,
        "mask_blob": mask.blob,
        "png_blob": mask.png_blob,
        "group": mask.group,
        "um_per_px": mask.um_per_px,
    }


def _pool_row(tile: images.PoolTile) -> dict[str, Any]:
    return {"tile": tile.tile_id, "png_blob": tile.png_blob, "group": tile.group, "um_per_px": tile.um_per_px}


def _queue_training(
    session: Session,
    blobs: BlobStore,
    project: Project,
    decision: RetrainDecision,
    current: Sequence[masks.CurrentMask],
) -> Run:
    champion = projects.champion(session, project)
    snapshot = {
        # With the texts of now: a run that is put back and goes on must not find other words.
        "classes": project.classes,
        "labelled": [_masked_row(m) for m in current if m.split == "train"],
        "audit": [_masked_row(m) for m in current if m.split == "audit"],
        "pool": [_pool_row(tile) for tile in masks.unlabelled(session, project.id)],  # also what is labelled in part
        "start_model": champion.id if champion.blob is not None else None,
        # The starter never saw this tissue: its first run takes the whole schedule, as a run from nothing does.
        "full_schedule": models.origin(session, champion).kind == "starter",
        "encoder_blob": _encoder_blob(blobs, project) if champion.blob is None else None,
    }
    run = _queue_run(session, blobs, project, decision, snapshot)
    masks.count_in_run(session, run.id, [m.mask_id for m in current])
    return run


def _queue_adaptation(session: Session, blobs: BlobStore, project: Project, decision: RetrainDecision) -> Run:
    """A run without labels, so that none is counted in it: those that wait go to the next training.

    The seed is the champion's and not the run's: asked for again, nothing is drawn anew until a gate lets it in.
    """
    champion, pool = projects.champion(session, project), masks.unlabelled(session, project.id)
    seed = project.seed + champion.id
    drawn = draw_tiles((tile.tile_id for tile in pool), seed)
    snapshot = {
        "adapt": True,
        "seed": seed,
        "classes": project.classes,
        "labelled": [],
        "pool": [_pool_row(tile) for tile in pool if tile.tile_id in drawn],
        "start_model": champion.id,
    }
    return _queue_run(session, blobs, project, decision, snapshot)


def _next_number(session: Session, project: Project) -> int:
    latest = runs.latest(session, project.id)
    return 1 if latest is None else latest.number + 1


def _queue_run(
    session: Session, blobs: BlobStore, project: Project, decision: RetrainDecision, snapshot: Mapping[str, Any]
) -> Run:
    policy = projects.policy_of(project)
    recipe = Recipe.for_profile(policy.train_profile, policy.train_method)
    run = Run(
        project_id=project.id,
        number=_next_number(session, project),
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
    adapt = {"adapt": True} if decision.trigger == runs.ADAPT else {}
    events.record(
        session,
        project_id=project.id,
        actor=decision.trigger or "rules",
        what="run queued",
        subject=f"run:{run.id}",
        after={
            **adapt,
            "labelled": len(snapshot["labelled"]),
            "pool": len(snapshot["pool"]),
            "reasons": list(decision.reasons),
        },
    )
    return run
