"""Schedules: one row per project says when it trains by the clock; whoever moves ``next_due_at`` answers a period."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.store import events
from backend.store.tables import Project, Schedule
from mpamatch.domain.cron import Cron
from mpamatch.domain.quiet_hours import QuietHours


@dataclass(frozen=True)
class Plan:
    """What a person decides about a project's schedule; both parts may be absent."""

    cron: Cron | None = None
    quiet: QuietHours | None = None
    always: bool = False
    zone: str = "UTC"


def of(session: Session, project_id: int) -> Schedule | None:
    return session.scalars(select(Schedule).where(Schedule.project_id == project_id)).one_or_none()


def plan_of(row: Schedule | None) -> Plan:
    """The plan of a row; an empty one where there is no row."""
    if row is None:
        return Plan()
    quiet = None
    if row.quiet_start is not None and row.quiet_end is not None:
        quiet = QuietHours(row.quiet_start, row.quiet_end, row.tz)
    return Plan(None if row.cron is None else Cron(row.cron, row.tz), quiet, row.always, row.tz)


def put(session: Session, project: Project, plan: Plan, *, now: datetime, actor: str) -> Schedule:
    """Make a plan the project's own. With another clock what was due is forgotten, and the next period comes after
    ``now``; a change of the quiet hours alone leaves a period that waits as it is."""
    row = session.scalars(select(Schedule).where(Schedule.project_id == project.id).with_for_update()).one_or_none()
    before = None if row is None else _words(plan_of(row))
    same_clock = row is not None and plan.cron is not None and plan_of(row).cron == plan.cron
    if row is None:
        row = Schedule(project_id=project.id)
        session.add(row)
    row.cron = None if plan.cron is None else plan.cron.text
    row.tz = plan.zone
    row.quiet_start = None if plan.quiet is None else plan.quiet.start
    row.quiet_end = None if plan.quiet is None else plan.quiet.end
    row.always = plan.always
    if not same_clock:
        row.next_due_at = None if plan.cron is None else plan.cron.next_due(now)
    session.flush()
    events.record(
        session,
        project_id=project.id,
        actor=actor,
        what="schedule set",
        subject=f"schedule:{row.id}",
        before=before,
        after=_words(plan),
    )
    return row


def settle(session: Session, row: Schedule, *, now: datetime, outcome: str, fired: bool) -> bool:
    """Answer the period that is due and move on to the next one after ``now``, so that missed ones count once.

    False when somebody else has answered it, or changed the schedule meanwhile.
    """
    cron, due, before = plan_of(row).cron, row.next_due_at, row.last_outcome
    assert cron is not None
    values = {"next_due_at": cron.next_due(now), "last_outcome": outcome, "last_outcome_at": now}
    moved = session.scalar(
        update(Schedule)
        .where(Schedule.id == row.id, Schedule.next_due_at == due, Schedule.cron == cron.text)
        .values(**values, **({"last_fired_at": now} if fired else {}))
        .returning(Schedule.id)
        .execution_options(synchronize_session=False)
    )
    if moved is None:
        return False
    session.refresh(row)
    if fired or outcome != before:  # a schedule that skips every quarter of an hour must not fill the log
        events.record(
            session,
            project_id=row.project_id,
            actor="schedule",
            what="schedule fired" if fired else "schedule skipped",
            subject=f"schedule:{row.id}",
            before=None if due is None else {"due": due.isoformat()},
            after={"outcome": outcome},
        )
    return True


def _words(plan: Plan) -> dict[str, object]:
    return {
        "cron": None if plan.cron is None else plan.cron.text,
        "tz": plan.zone,
        "quiet": None if plan.quiet is None else str(plan.quiet),
        "always": plan.always,
    }
