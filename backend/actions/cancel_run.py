"""Stop a run on a person's wish; the champion stays as it is, and the labels of the run count again."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Session

from backend.store import events, models, runs
from backend.store.tables import Project, Run
from mpamatch.errors import Conflict


def cancel_run(session: Session, project: Project, number: int | None, *, now: datetime, actor: str) -> Run:
    """Cancel the run of that number, or the open one. Raises Conflict when it is over, NotFound for no such number.

    One that trains is only marked: its worker sees the mark, ends the training and then the run.
    """
    found = runs.open_run(session, project.id) if number is None else runs.by_number(session, project.id, number)
    if found is None:
        raise Conflict("run", "is not open", "see `mpamatch runs list`")
    # Locked and read again: its worker may be handing in the model at this moment.
    run = session.get_one(Run, found.id, with_for_update=True, populate_existing=True)
    if run.state not in runs.OPEN:
        raise Conflict(f"run {run.number}", f"is {run.state} already", "see `mpamatch runs list`")
    run.cancel_requested = True
    events.record(session, project_id=project.id, actor=actor, what="run cancel requested", subject=f"run:{run.id}")
    if run.state in ("queued", "judging"):
        candidate = models.candidate_of(session, run.id)
        if candidate is not None and candidate.state == "candidate":
            candidate.state = "rejected"  # nobody will judge it any more
        runs.move(session, run, "cancelled", actor=actor, finished_at=now, lease_until=None)
    return run
