"""The one entry of the schedule: send again for whatever is due, since any message may have been lost."""

from __future__ import annotations

import logging
from datetime import timedelta

from backend.store import browsers, events, leases, predictions, projects, replies, runs, second_looks
from workers.parts import Parts, holder_alive

LOG = logging.getLogger("mpamatch.sweep")


def sweep(parts: Parts) -> None:
    """Wake the workers for every project; free what dead workers and people who went away held."""
    now = parts.now()
    with parts.database.transaction() as session:
        freed = runs.release_dead(session, now=now, alive=holder_alive)
        runs.end_cancelled(session, now=now)
        freed += predictions.release_dead(session, now=now, alive=holder_alive)
        events.seal(session, None)  # what belongs to no project; the rest is sealed with its project
        leases.end_expired(session, now=now)
        replies.forget(session, now=now)
        browsers.forget(session, opened_before=now - timedelta(hours=parts.settings.session_hours))
        project_ids = [p.id for p in projects.all_of(session)]
        train = runs.due(session, now=now)
        predict = predictions.any_due(session, now=now) or second_looks.any_due(session, now=now)
    if freed:
        LOG.info("freed %s claims of dead workers", freed)
    for project_id in project_ids:
        parts.wakeups.sync(project_id, full=True)
    for _ in range(train):  # one for each run, so that as many workers wake
        parts.wakeups.train()
    if predict:
        parts.wakeups.predict()
