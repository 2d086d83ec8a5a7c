"""The one entry of the schedule: send again for whatever is due, since any message may have been lost."""

from __future__ import annotations

import logging

from backend.clock import utc_now
from backend.store import predictions, projects, runs
from workers.parts import Parts, holder_alive

LOG = logging.getLogger("mpamatch.sweep")


def sweep(parts: Parts) -> None:
    """Wake the workers for every project; free what dead workers of this machine held."""
    now = utc_now()
    with parts.database.transaction() as session:
        freed = runs.release_dead(session, now=now, alive=holder_alive)
        runs.end_cancelled(session, now=now)
        freed += predictions.release_dead(session, now=now, alive=holder_alive)
        project_ids = [p.id for p in projects.all_of(session)]
        train = runs.due(session, now=now)
        predict = predictions.any_due(session, now=now)
    if freed:
        LOG.info("freed %s claims of dead workers", freed)
    for project_id in project_ids:
        parts.wakeups.sync(project_id, full=True)
    if train:
        parts.wakeups.train()
    if predict:
        parts.wakeups.predict()
