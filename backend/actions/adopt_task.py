"""Take a task of ours back into the rows: its import was answered to a worker that died before it could write it down.

Both readers of Label Studio need it: the reconciler, and the one who collects labels, since a person may be quicker
than the next pass.
"""

from __future__ import annotations

from typing import Any

from backend.actions import show_tile
from backend.store import leases, projects, queue, tasks
from backend.store.returning import is_asked_for
from backend.store.sessions import Database
from backend.store.tables import Task, Tile


def adopt_task(database: Database, project_id: int, ls_task: dict[str, Any]) -> bool:
    """A row for a task that shows a tile of the project; False when it has one, or the tile has another task. One that
    was labelled in part and is asked for again has earlier ones, and a label is never left behind for their sake.

    A task that was taken for gone and is there gets its row back; a number that was another tile's task is freed first.
    One whose tile somebody took from the queue meanwhile is left alone as long as nobody has labelled it: the tile is
    with that person.
    """
    tile_id, ls_task_id = show_tile.tile_of(ls_task.get("data")), int(ls_task["id"])
    with database.transaction() as session:
        tile = None if tile_id is None else session.get(Tile, tile_id)
        if tile is None or tile.project_id != project_id:
            return False
        row = tasks.by_ls_id(session, project_id, ls_task_id)
        known = None if row is None or row.tile_id != tile.id else row
        project, other = projects.get(session, project_id), tasks.of_tile(session, tile.id)
        if (known is not None and known.state != "gone") or (other is not None and other.state == "live"):
            return False
        if other is not None and not ls_task.get("annotations") and not is_asked_for(session, project, tile.id):
            return False
        if not ls_task.get("annotations") and leases.with_person(session, project_id, tile.id):
            return False
        if known is not None:
            known.state = "live"
        else:
            waited = tasks.free_numbers(session, project_id, {ls_task_id: tile.id})
            queue.set_state(session, project, waited, "open")
            session.add(Task(project_id=project_id, tile_id=tile.id, ls_task_id=ls_task_id, origin="head"))
        queue.set_state(session, project, [tile.id], "leased", holder=queue.IN_LABEL_STUDIO)
    return True
