"""Make Label Studio show the head of the queue, in our order: compare what should be there with what is, mend the rest.

Level-triggered and safe to run twice or to die anywhere: Label Studio is read first, and what an earlier pass left
half done is adopted or removed. What somebody has on their page is never deleted, neither the task nor the prediction
that the page names: a submit would be refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.orm import Session

from backend.actions import show_tile
from backend.actions.adopt_task import adopt_task
from backend.labelstudio.client import LabelStudioClient
from backend.store import events, predictions, projects, queue, tasks
from backend.store.blobs import BlobFolder
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Image, Project, Task, Tile
from mpamatch.domain.ordering import ascending_scores
from mpamatch.errors import NotFound

CHUNK = 100
COLUMNS = ("draft_exists", "predictions_model_versions")
# With a pool of this many heads or less, a new champion is shown together with its new order; a larger pool would keep
# people waiting, so there its predictions come first and the order follows.
SMALL_POOL_HEADS = 10

LsTask = dict[str, Any]


@dataclass
class PushReport:
    """What changed in Label Studio."""

    version: str | None = None
    added: int = 0
    removed: int = 0
    refreshed: int = 0
    waiting_for: int = 0
    uploads: list[LsTask] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return bool(self.added or self.removed or self.refreshed)


@dataclass(frozen=True)
class Wanted:
    """How one tile should look in Label Studio: where it would stand by itself, and the words above it."""

    tile_id: int
    natural: float
    why: str


@dataclass(frozen=True)
class Scene:
    """What one pass knows: our rows of waiting tasks, what Label Studio holds, and what should be there."""

    ls_project_id: int
    version: str
    there: Mapping[int, LsTask]
    rows: Sequence[Task]
    wanted: Mapping[int, Wanted]
    head: Sequence[int]
    has_task: frozenset[int]
    now: datetime


class HeadReconciler:
    """One pass over one project. Holds what the pass needs; keeps nothing between passes."""

    def __init__(
        self,
        database: Database,
        blobs: BlobFolder,
        keys: KeyRing,
        client: LabelStudioClient,
        public_url: str,
        *,
        open_page_s: float,
        link_life: timedelta,
    ) -> None:
        self.database = database
        self.blobs = blobs
        self.keys = keys
        self.client = client
        self.public_url = public_url
        self.open_page = timedelta(seconds=open_page_s)
        self.link_life = link_life

    def reconcile(self, project_id: int, *, now: datetime) -> PushReport:
        """Roll out a new champion if its head is complete, then mend tasks, scores, reasons and links."""
        report = PushReport()
        with self.database.transaction() as session:
            project = projects.get(session, project_id)
            champion = projects.champion(session, project)
            report.version = project.ls_model_version
            ranked = queue.size(session, project) > 0
            report.waiting_for = _unseen(session, project)
        if project.ls_project_id is None:
            return report
        listed = self.client.tasks(project.ls_project_id, fields_all=False, unlabelled_only=True, columns=COLUMNS)
        there = {int(t["id"]): t for t in listed}
        report.uploads = [t for t in there.values() if not _tile_id(t)]
        self._settle(project, there)
        if report.waiting_for or not ranked:
            return report
        if project.ls_model_version != champion.version:
            self._roll_out(self._look(project_id, champion.version, there, now), project_id, report)
        self._mend(self._look(project_id, champion.version, there, now), project_id, report)
        self._fix_version(project.ls_project_id, champion.version)
        return report

    # -- what is there ------------------------------------------------------------------------------------------

    def _look(self, project_id: int, version: str, there: Mapping[int, LsTask], now: datetime) -> Scene:
        with self.database.transaction() as session:
            project = projects.get(session, project_id)
            rows = list(tasks.live(session, project_id))
            head = [e.tile_id for e in queue.head(session, project, projects.policy_of(project).head_size)]
            # A row that is not among the waiting tasks was just labelled there; its label is on its way here.
            live = [t for t in rows if t.ls_task_id in there]
            wanted = _wanted(session, project, {*head, *(t.tile_id for t in live)})
        return Scene(
            ls_project_id=_ls_project(project),
            version=version,
            there=there,
            rows=live,
            wanted=wanted,
            head=head,
            has_task=frozenset(t.tile_id for t in rows),
            now=now,
        )

    def _settle(self, project: Project, there: dict[int, LsTask]) -> None:
        """Make rows and Label Studio agree on which tasks exist."""
        with self.database.transaction() as session:
            live = list(tasks.live(session, project.id))
            known = tasks.known_ids(session, project.id, list(there))
        vanished = [t for t in live if t.ls_task_id not in there and self._is_gone(t.ls_task_id)]
        with self.database.transaction() as session:
            for task in vanished:
                session.get_one(Task, task.id).state = "gone"
                queue.set_state(session, projects.get(session, project.id), [task.tile_id], "open")
        # Our tasks without a row: an import whose answer we never stored. Adopt them when the tile has no other task.
        unknown = [t for t in sorted(there) if _tile_id(there[t]) is not None and t not in known]
        surplus = [
            t
            for t in unknown
            if not adopt_task(self.database, project.id, there[t]) and not there[t].get("draft_exists")
        ]
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

    def _in_use(self, scene: Scene, row: Task) -> bool:
        """Whether a page may show it: a draft, or its picture asked for lately. Uploads' pictures are not ours."""
        if scene.there[row.ls_task_id].get("draft_exists"):
            return True
        seen_at = row.opened_at or (row.refreshed_at if row.origin == "uploaded" else None)
        return seen_at is not None and scene.now - seen_at < self.open_page

    # -- a new champion -----------------------------------------------------------------------------------------

    def _roll_out(self, scene: Scene, project_id: int, report: PushReport) -> None:
        """Import the new version for every waiting task, count, and switch; stale ones go in ``_mend``."""
        held = self.client.model_versions(scene.ls_project_id)
        if held.get(scene.version):  # an earlier roll-out died in the middle, or an earlier champion returns
            self.client.delete_model_version(scene.ls_project_id, scene.version)
        rows = _in_order(scene.rows, scene.wanted)
        natural = [scene.wanted[t.tile_id].natural for t in rows]
        self._import_predictions(project_id, scene, list(zip(rows, natural, strict=True)))
        if rows:
            self.client.set_model_version(scene.ls_project_id, scene.version)
        with self.database.transaction() as session:
            fresh = projects.get(session, project_id)
            before = fresh.ls_model_version
            fresh.ls_model_version = scene.version
            events.record(
                session,
                project_id=project_id,
                actor="reconciler",
                what="model version moved",
                subject=f"project:{project_id}",
                before={"version": before},
                after={"version": scene.version, "tasks": len(rows)},
            )
        report.version = scene.version
        report.refreshed += len(rows)

    def _clear_stale(self, scene: Scene) -> None:
        """Delete other versions' predictions: at once where no page can show them, else when the pages have closed."""
        held = self.client.model_versions(scene.ls_project_id)
        stale = [version for version, count in held.items() if count and version != scene.version]
        if not stale:
            return
        if not any(self._in_use(scene, row) for row in scene.rows):
            for version in stale:
                self.client.delete_model_version(scene.ls_project_id, version)
            return
        for row in scene.rows:
            shown = str(scene.there[row.ls_task_id].get("predictions_model_versions") or "")
            if self._in_use(scene, row) or not any(version in shown for version in stale):
                continue
            for prediction in self.client.task(row.ls_task_id).get("predictions", []):
                if prediction.get("model_version") != scene.version:
                    self.client.delete_prediction(int(prediction["id"]))

    # -- the head -----------------------------------------------------------------------------------------------

    def _mend(self, scene: Scene, project_id: int, report: PushReport) -> None:
        head = set(scene.head)
        surplus = [t for t in scene.rows if t.tile_id not in head and t.origin == "head" and not self._in_use(scene, t)]
        leaving = {t.id for t in surplus}
        by_tile = {t.tile_id: t for t in scene.rows if t.id not in leaving}
        missing = [tile_id for tile_id in scene.head if tile_id not in scene.has_task]
        places = sorted((scene.wanted[t] for t in {*by_tile, *missing}), key=lambda w: (w.natural, w.tile_id))
        scores = self._scores(scene, by_tile, places)
        self._rescore(project_id, scene, by_tile, scores, report)
        self._add(project_id, scene, [(scene.wanted[t], scores[t]) for t in missing], report)
        for row in by_tile.values():
            if not self._in_use(scene, row):
                self._refresh_data(row, scene)
        self._remove(project_id, scene, surplus, report)
        self._clear_stale(scene)

    def _scores(self, scene: Scene, by_tile: Mapping[int, Task], places: Sequence[Wanted]) -> dict[int, float]:
        """Ascending scores in our order; those that hold already stay, since each change is a call."""
        present = [
            by_tile[w.tile_id].score_sent
            if w.tile_id in by_tile and by_tile[w.tile_id].model_version == scene.version
            else None
            for w in places
        ]
        scores = ascending_scores(present, [w.natural for w in places])
        return {w.tile_id: score for w, score in zip(places, scores, strict=True)}

    def _rescore(
        self,
        project_id: int,
        scene: Scene,
        by_tile: Mapping[int, Task],
        scores: Mapping[int, float],
        report: PushReport,
    ) -> None:
        """Predictions of this version where they are missing; a changed score in place, so that open pages live on."""
        lacking = []
        for tile_id, row in by_tile.items():
            if row.model_version != scene.version or not _shows(scene.there[row.ls_task_id], scene.version):
                lacking.append((row, scores[tile_id]))
            elif row.score_sent != scores[tile_id]:
                self._send_score(row, scene, scores[tile_id])
                report.refreshed += 1
        self._import_predictions(project_id, scene, lacking)
        report.refreshed += len(lacking)

    def _send_score(self, row: Task, scene: Scene, score: float) -> None:
        for prediction in self.client.task(row.ls_task_id).get("predictions", []):
            if prediction.get("model_version") == scene.version:
                self.client.update_prediction(int(prediction["id"]), score=score)
        with self.database.transaction() as session:
            fresh = session.get_one(Task, row.id)
            fresh.score_sent = score

    def _add(self, project_id: int, scene: Scene, places: Sequence[tuple[Wanted, float]], report: PushReport) -> None:
        expires_at = scene.now + self.link_life
        for chunk in _chunks(places, CHUNK):
            results = self._results(project_id, scene.version, [w.tile_id for w, _ in chunk])
            ready = [(w, score) for w, score in chunk if w.tile_id in results]
            if not ready:
                continue
            ids = self.client.import_tasks(
                scene.ls_project_id,
                [
                    {
                        "data": self._data(w, expires_at),
                        "predictions": [{"result": results[w.tile_id], "score": score, "model_version": scene.version}],
                    }
                    for w, score in ready
                ],
            )
            with self.database.transaction() as session:
                session.add_all(
                    Task(
                        project_id=project_id,
                        tile_id=w.tile_id,
                        ls_task_id=ls_task_id,
                        origin="head",
                        model_version=scene.version,
                        score_sent=score,
                        why=w.why,
                        url_expires_at=expires_at,
                        refreshed_at=scene.now,
                    )
                    for (w, score), ls_task_id in zip(ready, ids, strict=True)
                )
                project = projects.get(session, project_id)
                held = [w.tile_id for w, _ in ready]
                queue.set_state(session, project, held, "leased", holder=queue.IN_LABEL_STUDIO)
            report.added += len(ready)

    def _refresh_data(self, row: Task, scene: Scene) -> None:
        """The words above the picture and its link, when they changed, the link grows old, or we moved."""
        wanted, data = scene.wanted[row.tile_id], scene.there[row.ls_task_id]["data"]
        left = None if row.url_expires_at is None else row.url_expires_at - scene.now
        old = left is None or left < self.link_life * show_tile.LINK_RENEW_SHARE
        moved = not str(data.get("image", "")).startswith(f"{self.public_url}/")
        renew = row.origin == "head" and (old or moved)
        if row.why == wanted.why and not renew:
            return
        expires_at = scene.now + self.link_life
        fresh_data = self._data(wanted, expires_at) if row.origin == "head" else {**data, "why": wanted.why}
        self.client.update_task_data(row.ls_task_id, fresh_data)
        with self.database.transaction() as session:
            fresh = session.get_one(Task, row.id)
            fresh.why = wanted.why
            fresh.url_expires_at = expires_at if row.origin == "head" else None

    def _remove(self, project_id: int, scene: Scene, rows: Sequence[Task], report: PushReport) -> None:
        if not rows:
            return
        self.client.delete_tasks(scene.ls_project_id, [t.ls_task_id for t in rows])
        with self.database.transaction() as session:
            for row in rows:
                session.get_one(Task, row.id).state = "gone"
            queue.set_state(session, projects.get(session, project_id), [t.tile_id for t in rows], "open")
        report.removed += len(rows)

    # -- shared steps -------------------------------------------------------------------------------------------

    def _import_predictions(self, project_id: int, scene: Scene, scored: Sequence[tuple[Task, float]]) -> None:
        for chunk in _chunks(scored, CHUNK):
            results = self._results(project_id, scene.version, [row.tile_id for row, _ in chunk])
            ready = [(row, score) for row, score in chunk if row.tile_id in results]
            self.client.import_predictions(
                scene.ls_project_id,
                [
                    {
                        "task": row.ls_task_id,
                        "result": results[row.tile_id],
                        "score": score,
                        "model_version": scene.version,
                    }
                    for row, score in ready
                ],
            )
            with self.database.transaction() as session:
                for row, score in ready:
                    fresh = session.get_one(Task, row.id)
                    fresh.model_version = scene.version
                    fresh.score_sent = score
                    fresh.refreshed_at = scene.now
            for row, _ in ready:
                shown = scene.there[row.ls_task_id].get("predictions_model_versions") or ""
                scene.there[row.ls_task_id]["predictions_model_versions"] = f"{shown} {scene.version}"

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
        if self.client.model_versions(ls_project_id).get(version):
            self.client.set_model_version(ls_project_id, version)


def _unseen(session: Session, project: Project) -> int:
    """How many predictions of the champion to wait for: the head's, or all of a small pool's."""
    if project.champion_id is None:
        return 0
    head = predictions.missing_for(session, project.id, project.champion_id, live_tasks_only=True)
    if project.ranked_model_id == project.champion_id:
        return head
    every = predictions.missing_for(session, project.id, project.champion_id, live_tasks_only=False)
    small = every <= SMALL_POOL_HEADS * projects.policy_of(project).head_size
    return every if small else head


def _wanted(session: Session, project: Project, tile_ids: set[int]) -> dict[int, Wanted]:
    size = queue.size(session, project)
    entries = queue.of_tiles(session, project, sorted(tile_ids))
    wanted = {}
    for position, tile_id in enumerate(sorted(tile_ids)):
        audit = _is_audit(session, tile_id)
        entry = entries.get(tile_id)
        if entry is not None:
            why = show_tile.why_of(entry.reasons, audit=audit)
            wanted[tile_id] = Wanted(tile_id, show_tile.score_of(entry.rank, size), why)
        else:  # just uploaded: after every ranked one, apart from each other
            last = show_tile.score_of(size, size)
            natural = last + (1 - last) * (position + 1) / (len(tile_ids) + 2)
            wanted[tile_id] = Wanted(tile_id, natural, show_tile.why_of(["taken in, not ranked yet"], audit=audit))
    return wanted


def _in_order(rows: Iterable[Task], wanted: Mapping[int, Wanted]) -> list[Task]:
    return sorted(rows, key=lambda t: (wanted[t.tile_id].natural, t.tile_id))


def _shows(ls_task: LsTask, version: str) -> bool:
    """Whether a task carries a prediction of the version, as the light listing tells it."""
    return version in str(ls_task.get("predictions_model_versions") or "").replace(",", " ").split()


def _tile_id(ls_task: LsTask) -> int | None:
    return show_tile.tile_of(ls_task.get("data"))


def _ls_project(project: Project) -> int:
    if project.ls_project_id is None:
        raise NotFound(f"project {project.key}", "is not connected to Label Studio", "run `mpamatch connect`")
    return int(project.ls_project_id)


def _is_audit(session: Session, tile_id: int) -> bool:
    tile = session.get_one(Tile, tile_id)
    return bool(session.get_one(Image, tile.image_id).split == "audit")


def _chunks(rows: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
