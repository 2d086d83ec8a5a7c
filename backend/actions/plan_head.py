"""What should be in Label Studio, beside what is: the values of one pass, read from rows and decided without a call.

Here and not in ``push_tasks``: that one acts, and this may be read, tested and thought about without a server.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from backend.actions import show_tile
from backend.labelstudio.controls import Controls
from backend.store import images, predictions, projects, queue, tasks
from backend.store.tables import Project, Task
from mpamatch.domain.ordering import ascending_scores
from mpamatch.errors import NotFound

# With a pool of this many heads or less, a new champion is shown together with its new order; a larger pool would keep
# people waiting, so there its predictions come first and the order follows.
SMALL_POOL_HEADS = 10

LsTask = dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """How one tile should look in Label Studio: where it would stand by itself, and the words above it."""

    tile_id: int
    natural: float
    why: str


@dataclass(frozen=True)
class Scene:
    """What one pass knows: our rows of waiting tasks, what Label Studio holds, and what should be there.

    ``has_task``: tiles that may not get another task, one whose label is on its way included.
    """

    ls_project_id: int
    version: str
    there: Mapping[int, LsTask]
    rows: Sequence[Task]
    wanted: Mapping[int, Wanted]
    head: Sequence[int]
    has_task: frozenset[int]
    open_page: timedelta
    now: datetime
    controls: Controls = field(default_factory=Controls)

    def in_order(self) -> list[Task]:
        """The waiting tasks as they should be served."""
        return sorted(self.rows, key=lambda t: (self.wanted[t.tile_id].natural, t.tile_id))

    def in_use(self, row: Task) -> bool:
        """Whether a page may show it: a draft, or its picture asked for lately. Uploads' pictures are not ours."""
        if self.there[row.ls_task_id].get("draft_exists"):
            return True
        seen_at = row.opened_at or (row.refreshed_at if row.origin == "uploaded" else None)
        return seen_at is not None and self.now - seen_at < self.open_page

    def shows(self, row: Task) -> bool:
        """Whether its task carries a prediction of this version, as the light listing tells it."""
        return self.version in shown_versions(self.there[row.ls_task_id])

    def surplus(self) -> list[Task]:
        """Tasks of ours that are not in the head any more and that nobody has begun."""
        head = set(self.head)
        return [t for t in self.rows if t.tile_id not in head and t.origin == "head" and not self.in_use(t)]

    def missing(self) -> list[int]:
        """Tiles of the head without a task, in order."""
        return [tile_id for tile_id in self.head if tile_id not in self.has_task]

    def scores(self, by_tile: Mapping[int, Task], missing: Iterable[int]) -> dict[int, float]:
        """Ascending scores in our order; those that hold already stay, since each change is a call."""
        places = sorted((self.wanted[t] for t in {*by_tile, *missing}), key=lambda w: (w.natural, w.tile_id))
        present = [
            by_tile[w.tile_id].score_sent
            if w.tile_id in by_tile and by_tile[w.tile_id].model_version == self.version
            else None
            for w in places
        ]
        scores = ascending_scores(present, [w.natural for w in places])
        return {w.tile_id: score for w, score in zip(places, scores, strict=True)}

    def read_again(self, session: Session) -> Scene:
        """The same with the rows as they are now: somebody may have opened a page since. Rows that ended are left."""
        numbers = {t.id for t in self.rows}
        return replace(self, rows=[t for t in tasks.live_now(session, numbers) if t.ls_task_id in self.there])


def shown_versions(ls_task: LsTask) -> list[str]:
    """The versions of which a task of a light listing carries predictions."""
    return str(ls_task.get("predictions_model_versions") or "").replace(",", " ").split()


def look(
    session: Session,
    project_id: int,
    version: str,
    there: Mapping[int, LsTask],
    *,
    open_page: timedelta,
    now: datetime,
) -> Scene:
    """Read what there should be beside ``there``, the waiting tasks by id as Label Studio lists them."""
    project = projects.get(session, project_id)
    head = [e.tile_id for e in queue.head(session, project, projects.policy_of(project).head_size)]
    # A row that is not among the waiting tasks was just labelled there; its label is on its way here.
    rows = [t for t in tasks.live(session, project_id) if t.ls_task_id in there]
    controls = Controls.from_json(project.ls_controls)
    tile_ids = sorted({*head, *(t.tile_id for t in rows)})
    # Without a control for boxes there is none on the picture to count.
    shown = show_tile.read_shown(session, project, version, tile_ids) if controls.review else {}
    return Scene(
        ls_project_id=ls_project_of(project),
        version=version,
        there=there,
        rows=rows,
        wanted=_wanted(session, project, tile_ids, shown),
        head=head,
        has_task=tasks.tiles_with_one(session, project_id, head),
        open_page=open_page,
        now=now,
        controls=controls,
    )


def unseen(session: Session, project: Project) -> int:
    """How many predictions of the champion to wait for: the head's, or all of a small pool's."""
    if project.champion_id is None:
        return 0
    head = predictions.missing_for(session, project.id, project.champion_id, live_tasks_only=True)
    if project.ranked_model_id == project.champion_id:
        return head
    every = predictions.missing_for(session, project.id, project.champion_id, live_tasks_only=False)
    small = every <= SMALL_POOL_HEADS * projects.policy_of(project).head_size
    return every if small else head


def ls_project_of(project: Project) -> int:
    """Raises NotFound while the project is not connected."""
    if project.ls_project_id is None:
        raise NotFound(f"project {project.key}", "is not connected to Label Studio", "run `mpamatch connect`")
    return int(project.ls_project_id)


def _wanted(
    session: Session, project: Project, tile_ids: Sequence[int], shown: Mapping[int, show_tile.Shown]
) -> dict[int, Wanted]:
    size = queue.size(session, project)
    entries = queue.of_tiles(session, project, tile_ids)
    audit_tiles = images.audit_tiles(session, tile_ids)
    wanted = {}
    for position, tile_id in enumerate(tile_ids):
        audit = tile_id in audit_tiles
        entry = entries.get(tile_id)
        if entry is not None:
            why = show_tile.why_of(entry.reasons, audit=audit, shown=shown.get(tile_id))
            wanted[tile_id] = Wanted(tile_id, show_tile.score_of(entry.rank, size), why)
        else:  # just uploaded: after every ranked one, apart from each other
            last = show_tile.score_of(size, size)
            natural = last + (1 - last) * (position + 1) / (len(tile_ids) + 2)
            wanted[tile_id] = Wanted(tile_id, natural, show_tile.why_of(["taken in, not ranked yet"], audit=audit))
    return wanted
