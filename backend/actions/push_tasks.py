"""Make Label Studio show the head of the queue, in our order: compare what should be there with what is, mend the rest.

Level-triggered and safe to run twice or to die anywhere: Label Studio is read first, and what an earlier run left
half done is adopted or removed. Tasks that someone has begun are never deleted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from backend.actions import show_tile
from backend.labelstudio.client import LabelStudioClient
from backend.store import events, predictions, projects, queue, tasks
from backend.store.blobs import BlobFolder
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Image, QueueEntry, Task, Tile
from mpamatch.errors import NotFound

CHUNK = 100


@dataclass
class PushReport:
    """What changed in Label Studio."""

    version: str | None = None
    added: int = 0
    removed: int = 0
    refreshed: int = 0
    waiting_for: int = 0
    uploads: list[dict[str, Any]] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.added or self.removed or self.refreshed)


@dataclass(frozen=True)
class Wanted:
    """How one tile should look in Label Studio."""

    tile_id: int
    score: float
    why: str


class HeadReconciler:
    """One pass over one project. Holds what the pass needs; keeps nothing between passes."""

    def __init__(
        self, database: Database, blobs: BlobFolder, keys: KeyRing, client: LabelStudioClient, public_url: str
    ) -> None:
        self.database = database
        self.blobs = blobs
        self.keys = keys
        self.client = client
        self.public_url = public_url

    def reconcile(self, project_id: int, *, now: datetime) -> PushReport:
        """Roll out a new champion if its head is complete, then mend tasks, scores, reasons and links."""
        report = PushReport()
        with self.database.transaction() as session:
            project = projects.get(session, project_id)
            champion = projects.champion(session, project)
            report.version = project.ls_model_version
            ready = queue.size(session, project) > 0
            if project.ls_project_id is None:
                return report
            report.waiting_for = predictions.missing_for(session, project_id, champion.id, live_tasks_only=True)
        there = {t["id"]: t for t in self.client.tasks(project.ls_project_id, unlabelled_only=True)}
        report.uploads = [t for t in there.values() if not _tile_id(t)]
        self._settle(project_id, there, now=now)
        if report.waiting_for or not ready:
            return report
        if project.ls_model_version != champion.version:
            self._roll_out(project_id, champion.version, there, report, now=now)
        self._mend(project_id, champion.version, there, report, now=now)
        self._fix_version(project.ls_project_id, champion.version)
        return report

    # -- what is there ------------------------------------------------------------------------------------------

    def _settle(self, project_id: int, there: dict[int, dict[str, Any]], *, now: datetime) -> None:
        """Make rows and Label Studio agree on which tasks exist."""
        with self.database.transaction() as session:
            live = list(tasks.live(session, project_id))
            known = tasks.known_ids(session, project_id, list(there))
        vanished = [t for t in live if t.ls_task_id not in there and self._is_gone(t.ls_task_id)]
        with self.database.transaction() as session:
            project = projects.get(session, project_id)
            for task in vanished:
                session.get_one(Task, task.id).state = "gone"
                queue.set_state(session, project, [task.tile_id], "open")
        # Our tasks without a row: an import whose answer we never stored. Adopt them when the tile has no other task.
        surplus: list[int] = []
        for ls_task_id, ls_task in sorted(there.items()):
            tile_id = _tile_id(ls_task)
            if tile_id is None or ls_task_id in known:
                continue
            if not self._adopt(project_id, tile_id, ls_task_id) and not begun(ls_task):
                surplus.append(ls_task_id)
        if surplus:
            self.client.delete_tasks(_ls_project(project), surplus)
            for ls_task_id in surplus:
                there.pop(ls_task_id)

    def _is_gone(self, ls_task_id: int) -> bool:
        try:
            self.client.task(ls_task_id)
        except NotFound:
            return True
        return False

    def _adopt(self, project_id: int, tile_id: int, ls_task_id: int) -> bool:
        with self.database.transaction() as session:
            tile = session.get(Tile, tile_id)
            if tile is None or tile.project_id != project_id or tasks.of_tile(session, tile_id) is not None:
                return False
            session.add(Task(project_id=project_id, tile_id=tile_id, ls_task_id=ls_task_id, origin="head"))
            queue.set_state(
                session, projects.get(session, project_id), [tile_id], "leased", holder=queue.IN_LABEL_STUDIO
            )
        return True

    # -- a new champion -----------------------------------------------------------------------------------------

    def _roll_out(
        self, project_id: int, version: str, there: dict[int, dict[str, Any]], report: PushReport, *, now: datetime
    ) -> None:
        """Import the new version for every waiting task, count, switch, and only then delete what is stale."""
        with self.database.transaction() as session:
            project = projects.get(session, project_id)
            rows = [t for t in tasks.live(session, project_id) if t.ls_task_id in there]
            wanted = self._wanted_for(session, project_id, [t.tile_id for t in rows])
        ls_project_id = _ls_project(project)
        versions = self.client.model_versions(ls_project_id)
        if version in versions:  # an earlier roll-out died in the middle: begin it anew
            self.client.delete_model_version(ls_project_id, version)
        self._import_predictions(project_id, version, rows, wanted, now=now)
        if rows:
            self.client.set_model_version(ls_project_id, version)
        for stale in versions:
            if stale != version:
                self.client.delete_model_version(ls_project_id, stale)
        with self.database.transaction() as session:
            fresh = projects.get(session, project_id)
            before = fresh.ls_model_version
            fresh.ls_model_version = version
            events.record(
                session,
                project_id=project_id,
                actor="reconciler",
                what="model version moved",
                subject=f"project:{project_id}",
                before={"version": before},
                after={"version": version, "tasks": len(rows)},
            )
        report.version = version
        report.refreshed += len(rows)

    # -- the head -----------------------------------------------------------------------------------------------

    def _mend(
        self, project_id: int, version: str, there: dict[int, dict[str, Any]], report: PushReport, *, now: datetime
    ) -> None:
        with self.database.transaction() as session:
            project = projects.get(session, project_id)
            size = projects.policy_of(project).head_size
            wanted_tiles = [e.tile_id for e in queue.head(session, project, size)]
            rows = tasks.live(session, project_id)
            # A row that is not among the waiting tasks was just labelled there; its label is on its way here.
            live = {t.tile_id: t for t in rows if t.ls_task_id in there}
            has_task = {t.tile_id for t in rows}
            wanted = self._wanted_for(session, project_id, sorted({*wanted_tiles, *live}))
        head = set(wanted_tiles)
        surplus = [
            t for t in live.values() if t.tile_id not in head and t.origin == "head" and not begun(there[t.ls_task_id])
        ]
        missing = [tile_id for tile_id in wanted_tiles if tile_id not in has_task]
        gone = {t.tile_id for t in surplus}
        kept = [t for t in live.values() if t.tile_id not in gone]
        self._refresh(project_id, version, [t for t in kept if t.tile_id in wanted], wanted, there, report, now=now)
        self._add(project_id, version, [wanted[t] for t in missing if t in wanted], report, now=now)
        self._remove(project_id, surplus, report)

    def _wanted_for(self, session: Any, project_id: int, tile_ids: Sequence[int]) -> dict[int, Wanted]:
        project = projects.get(session, project_id)
        size = queue.size(session, project)
        entries = queue.of_tiles(session, project, tile_ids)
        wanted: dict[int, Wanted] = {}
        for position, tile_id in enumerate(sorted(tile_ids)):
            audit = _is_audit(session, tile_id)
            entry = entries.get(tile_id)
            wanted[tile_id] = _ranked(entry, size, audit) if entry else _unranked(tile_id, size, position, audit)
        return wanted

    def _add(
        self, project_id: int, version: str, wanted: Sequence[Wanted], report: PushReport, *, now: datetime
    ) -> None:
        expires_at = now + show_tile.LINK_LIFE
        for chunk in _chunks(wanted, CHUNK):
            results = self._results(project_id, version, [w.tile_id for w in chunk])
            ready = [w for w in chunk if w.tile_id in results]
            if not ready:
                continue
            with self.database.transaction() as session:
                ls_project_id = _ls_project(projects.get(session, project_id))
            ids = self.client.import_tasks(
                ls_project_id,
                [
                    {
                        "data": self._data(w, expires_at),
                        "predictions": [{"result": results[w.tile_id], "score": w.score, "model_version": version}],
                    }
                    for w in ready
                ],
            )
            with self.database.transaction() as session:
                for w, ls_task_id in zip(ready, ids, strict=True):
                    row = Task(project_id=project_id, tile_id=w.tile_id, ls_task_id=ls_task_id, origin="head")
                    _note(row, version, w, expires_at, now)
                    session.add(row)
                queue.set_state(
                    session,
                    projects.get(session, project_id),
                    [w.tile_id for w in ready],
                    "leased",
                    holder=queue.IN_LABEL_STUDIO,
                )
            report.added += len(ready)

    def _refresh(
        self,
        project_id: int,
        version: str,
        rows: Sequence[Task],
        wanted: dict[int, Wanted],
        there: dict[int, dict[str, Any]],
        report: PushReport,
        *,
        now: datetime,
    ) -> None:
        moved = [
            t
            for t in rows
            if t.model_version != version
            or t.score_sent != wanted[t.tile_id].score
            or not there[t.ls_task_id].get("total_predictions")
        ]
        if moved:
            with self.database.transaction() as session:
                ls_project_id = _ls_project(projects.get(session, project_id))
            self.client.delete_predictions_of_tasks(ls_project_id, [t.ls_task_id for t in moved])
            self._import_predictions(project_id, version, moved, wanted, now=now)
        report.refreshed += len(moved)
        for row in rows:
            self._refresh_data(row, wanted[row.tile_id], there[row.ls_task_id], now=now)

    def _refresh_data(self, row: Task, wanted: Wanted, ls_task: dict[str, Any], *, now: datetime) -> None:
        """The words above the picture and its link, when they changed or the link grows old."""
        old = row.url_expires_at is None or row.url_expires_at - now < show_tile.LINK_RENEW
        moved = not str(ls_task["data"].get("image", "")).startswith(f"{self.public_url}/")
        renew = row.origin == "head" and (old or moved)
        if row.why == wanted.why and not renew:
            return
        expires_at = now + show_tile.LINK_LIFE
        data = {**ls_task["data"], "why": wanted.why}
        if row.origin == "head":
            data = self._data(wanted, expires_at)
        self.client.update_task_data(row.ls_task_id, data)
        with self.database.transaction() as session:
            fresh = session.get_one(Task, row.id)
            fresh.why = wanted.why
            fresh.url_expires_at = expires_at if row.origin == "head" else None

    def _remove(self, project_id: int, rows: Sequence[Task], report: PushReport) -> None:
        if not rows:
            return
        with self.database.transaction() as session:
            ls_project_id = _ls_project(projects.get(session, project_id))
        self.client.delete_tasks(ls_project_id, [t.ls_task_id for t in rows])
        with self.database.transaction() as session:
            for row in rows:
                session.get_one(Task, row.id).state = "gone"
            queue.set_state(session, projects.get(session, project_id), [t.tile_id for t in rows], "open")
        report.removed += len(rows)

    # -- shared steps -------------------------------------------------------------------------------------------

    def _import_predictions(
        self, project_id: int, version: str, rows: Sequence[Task], wanted: dict[int, Wanted], *, now: datetime
    ) -> None:
        for chunk in _chunks(rows, CHUNK):
            results = self._results(project_id, version, [t.tile_id for t in chunk])
            ready = [t for t in chunk if t.tile_id in results]
            with self.database.transaction() as session:
                ls_project_id = _ls_project(projects.get(session, project_id))
            self.client.import_predictions(
                ls_project_id,
                [
                    {
                        "task": t.ls_task_id,
                        "result": results[t.tile_id],
                        "score": wanted[t.tile_id].score,
                        "model_version": version,
                    }
                    for t in ready
                ],
            )
            with self.database.transaction() as session:
                for t in ready:
                    row = session.get_one(Task, t.id)
                    row.model_version = version
                    row.score_sent = wanted[t.tile_id].score
                    row.refreshed_at = now

    def _results(self, project_id: int, version: str, tile_ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        with self.database.transaction() as session:
            project = projects.get(session, project_id)
            classes = projects.classes_of(project)
            shown = show_tile.read_shown(session, project, version, tile_ids)
        return {
            tile_id: show_tile.result_of(self.blobs, s, classes, project.label_type) for tile_id, s in shown.items()
        }

    def _data(self, wanted: Wanted, expires_at: datetime) -> dict[str, Any]:
        url = show_tile.link(self.keys, self.public_url, wanted.tile_id, expires_at)
        return {"image": url, "why": wanted.why, "tile_id": wanted.tile_id}

    def _fix_version(self, ls_project_id: int, version: str) -> None:
        """Anything but the exact version turns the label stream random."""
        if self.client.project(ls_project_id).get("model_version") == version:
            return
        if version in self.client.model_versions(ls_project_id):
            self.client.set_model_version(ls_project_id, version)


def begun(ls_task: dict[str, Any]) -> bool:
    """Whether somebody is at work on it: an annotation, a skip, a draft or a lock."""
    return any(ls_task.get(name) for name in ("total_annotations", "cancelled_annotations", "drafts", "locked_by"))


def _tile_id(ls_task: dict[str, Any]) -> int | None:
    value = ls_task.get("data", {}).get("tile_id")
    return value if isinstance(value, int) and value > 0 else None


def _ls_project(project: Any) -> int:
    if project.ls_project_id is None:
        raise NotFound(f"project {project.key}", "is not connected to Label Studio", "run `mpamatch connect`")
    return int(project.ls_project_id)


def _is_audit(session: Any, tile_id: int) -> bool:
    tile = session.get_one(Tile, tile_id)
    return bool(session.get_one(Image, tile.image_id).split == "audit")


def _ranked(entry: QueueEntry, size: int, audit: bool) -> Wanted:
    return Wanted(entry.tile_id, show_tile.score_of(entry.rank, size), show_tile.why_of(entry.reasons, audit=audit))


def _unranked(tile_id: int, size: int, position: int, audit: bool) -> Wanted:
    """A task without a rank (just uploaded): after every ranked one, apart from each other."""
    tail = 1 - 1 / (size + 1)
    return Wanted(
        tile_id,
        tail + (1 - tail) * (position + 1) / 10_000,
        show_tile.why_of(["taken in, not ranked yet"], audit=audit),
    )


def _note(row: Task, version: str, wanted: Wanted, expires_at: datetime, now: datetime) -> None:
    row.model_version = version
    row.score_sent = wanted.score
    row.why = wanted.why
    row.url_expires_at = expires_at
    row.refreshed_at = now


def _chunks(rows: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
