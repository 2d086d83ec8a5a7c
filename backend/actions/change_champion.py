"""Put another model in charge, in one transaction: after a verdict, or back again by hand.

Only the row moves here. What people see follows from it: the predict worker makes what is missing, head first, and
the reconciler moves Label Studio once it is complete.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from backend.store import events, models, projects
from backend.store.tables import Model, Project
from mpamatch.domain.states import check_move
from mpamatch.errors import Conflict


def promote(
    session: Session, project: Project, model: Model, *, actor: str, now: datetime, provisional: bool, why: str
) -> None:
    """Retire the champion and let ``model`` serve. Raises Conflict when the model may not, as an adapted one without a
    verdict: it learnt no label, and nobody knows yet whether it harms."""
    if "adapted" in (model.metrics or {}) and model.verdict is None:
        raise Conflict(f"model {model.version}", "was adapted and not judged yet", "wait for the gate's verdict")
    champion = projects.champion(session, project)
    check_move("model", model.state, "champion")
    check_move("model", champion.state, "retired")
    champion.state = "retired"
    session.flush()  # one champion per project is a unique index: the old one must step down first
    model.state = "champion"
    model.provisional = provisional
    model.promoted_at = now
    model.previous_id = champion.id
    project.champion_id = model.id
    events.record(
        session,
        project_id=project.id,
        actor=actor,
        what="champion changed",
        subject=f"model:{model.id}",
        before={"champion": champion.version},
        after={"champion": model.version, "why": why},
    )


def rollback(session: Session, project: Project, *, to_version: str | None, actor: str, now: datetime) -> Model:
    """Return to the champion before this one, or to a named earlier champion. Raises Conflict or NotFound."""
    champion = projects.champion(session, project)
    if to_version is None:
        previous = session.get(Model, champion.previous_id) if champion.previous_id is not None else None
        if previous is None:
            raise Conflict(f"model {champion.version}", "has no champion before it", "nothing to roll back to")
    else:
        previous = models.by_version(session, project.id, to_version)
    if previous.id == champion.id:
        raise Conflict(f"model {champion.version}", "is the champion already", "name an earlier one")
    keep = previous.previous_id
    promote(
        session,
        project,
        previous,
        actor=actor,
        now=now,
        provisional=previous.provisional,
        why=f"rolled back from {champion.version}",
    )
    previous.previous_id = keep  # so that a second rollback goes further back, not forth again
    return previous
