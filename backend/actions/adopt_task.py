"""Take a task of ours back into the rows: its import was answered to a worker that died before it could write it down.

Both readers of Label Studio need it: the reconciler, and the one who collects labels, since a person may be quicker
than the next pass.
"""

from __future__ import annotations

from typing import Any

from backend.actions import show_tile
from backend.store import projects, queue, tasks
from backend.store.sessions import Database
from backend.store.tables import Task, Tile


def adopt_task(database: Database, project_id: int, ls_task: dict[str, Any]) -> bool:
    """A row for a task that shows a tile of the project; False when it has one, or the tile has another task.

    A task that was taken for gone and is there gets its row back; a number that was another tile's task is freed first.
    """
    tile_id, ls_task_id = show_tile.tile_of(ls_task.get("data")), int(ls_task["id"])
    with database.transaction() as session:
        tile = None if tile_id is None else session.get(Tile, tile_id)
        if tile is None or tile.project_id != project_id or tasks.of_tile(session, tile.id) is not None:
            return False
        project = projects.get(session, project_id)
        row = tasks.by_ls_id(session, project_id, ls_task_id)
        if row is not None and row.tile_id == tile.id:
            row.state = "live"
        else:
            waited = tasks.free_numbers(session, project_id, {ls_task_id: tile.id})
            queue.set_state(session, project, waited, "open")
            session.add(Task(project_id=project_id, tile_id=tile.id, ls_task_id=ls_task_id, origin="head"))
        queue.set_state(session, project, [tile.id], "leased", holder=queue.IN_LABEL_STUDIO)
    return True
