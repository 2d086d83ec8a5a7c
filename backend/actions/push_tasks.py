"""Make Label Studio show the head of the queue, in our order: compare what should be there with what is, mend the rest.

Level-triggered and safe to run twice or to die anywhere: Label Studio is read first, and what an earlier pass left
half done is adopted or removed. What somebody has on their page is never deleted, neither the task nor the prediction
that the page names: a submit would be refused.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from backend.actions import show_tile
from backend.actions.adopt_task import adopt_task
from backend.actions.plan_head import LsTask, Scene, Wanted, look, ls_project_of, shown_versions, unseen
from backend.labelstudio.client import LabelStudioClient
from backend.labelstudio.controls import Controls
from backend.store import events, models, projects, queue, tasks
from backend.store.blobs import BlobStore
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Project, Task
from mpamatch.errors import BadInput, NotFound

LOG = logging.getLogger("mpamatch.head")
CHUNK = 100
COLUMNS = ("draft_exists", "predictions_model_versions")


@dataclass
class PushReport:
    """What changed in Label Studio."""

    version: str | None = None
    added: int = 0
    removed: int = 0
    refreshed: int = 0
    waiting_for: int = 0

    @property
    def changed(self) -> bool:
        return bool(self.added or self.removed or self.refreshed)


class HeadReconciler:
    """One pass over one project. Holds what the pass needs; keeps nothing between passes."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
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
            report.waiting_for = unseen(session, project)
        if project.ls_project_id is None:
            return report
        listed = self.client.tasks(project.ls_project_id, fields_all=False, unlabelled_only=True, columns=COLUMNS)
        there = {int(t["id"]): t for t in listed}
        self._settle(project, there)
        if report.waiting_for or not ranked:
            return report
        if project.ls_model_version != champion.version:
            self._roll_out(self._look(project_id, champion.version, there, now), project_id, report)
        self._mend(self._look(project_id, champion.version, there, now), project_id, report)
        self._fix_version(project.ls_project_id, champion.version)
        return report

    def _look(self, project_id: int, version: str, there: dict[int, LsTask], now: datetime) -> Scene:
        with self.database.transaction() as session:
            return look(session, project_id, version, there, open_page=self.open_page, now=now)

    # -- what is there ------------------------------------------------------------------------------------------

    def _settle(self, project: Project, there: dict[int, LsTask]) -> None:
        """Make rows and Label Studio agree on which tasks exist."""
        with self.database.transaction() as session:
            live = list(tasks.live(session, project.id))
            held = tasks.held_numbers(session, project.id, there)
        vanished = [t for t in live if t.ls_task_id not in there and self._is_gone(t.ls_task_id)]
        with self.database.transaction() as session:
            for task in vanished:
                session.get_one(Task, task.id).state = "gone"
                queue.set_state(session, projects.get(session, project.id), [task.tile_id], "open")
        # Our tasks without a row of their tile: an import whose answer we never stored, or one taken for gone. Adopt
        # them when the tile has no other task.
        tiles = {t: show_tile.tile_of(there[t].get("data")) for t in sorted(there)}
        unknown = [t for t, tile_id in tiles.items() if tile_id is not None and held.get(t) != tile_id]
        surplus = [
            t
            for t in unknown
            if not adopt_task(self.database, project.id, there[t]) and not there[t].get("draft_exists")
        ]
        if surplus:
            self.client.delete_tasks(ls_project_of(project), surplus)
            for ls_task_id in surplus:
                there.pop(ls_task_id)

    def _is_gone(self, ls_task_id: int) -> bool:
        try:
            self.client.task(ls_task_id)
        except NotFound:
            return True
        return False

    # -- a new champion -----------------------------------------------------------------------------------------

    def _roll_out(self, scene: Scene, project_id: int, report: PushReport) -> None:
        """Import the new version for every waiting task, count, and switch; stale ones go in ``_mend``."""
        rows = scene.in_order()
        self._put_predictions(project_id, scene, [(t, scene.wanted[t.tile_id].natural) for t in rows])
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

    def _clear_stale(self, project_id: int, scene: Scene) -> None:
        """Delete our other versions' predictions: at once where no page can show them, else when the pages closed.

        Those of somebody else's models are left alone: neither the order nor the page follows them.
        """
        held = self.client.model_versions(scene.ls_project_id)
        with self.database.transaction() as session:
            ours = {model.version for model in models.all_of(session, project_id)}
        stale = [v for v, count in held.items() if count and v != scene.version and v in ours]
        if not stale:
            return
        with self.database.transaction() as session:
            scene = scene.read_again(session)
        if not any(scene.in_use(row) for row in scene.rows):
            for version in stale:
                self.client.delete_model_version(scene.ls_project_id, version)
            return
        for row in scene.rows:
            if scene.in_use(row) or not set(stale).intersection(shown_versions(scene.there[row.ls_task_id])):
                continue
            for prediction in self.client.task(row.ls_task_id).get("predictions", []):
                if prediction.get("model_version") in stale:
                    self.client.delete_prediction(int(prediction["id"]))

    # -- the head -----------------------------------------------------------------------------------------------

    def _mend(self, scene: Scene, project_id: int, report: PushReport) -> None:
        surplus, missing = scene.surplus(), scene.missing()
        leaving = {t.id for t in surplus}
        by_tile = {t.tile_id: t for t in scene.rows if t.id not in leaving}
        scores = scene.scores(by_tile, missing)
        self._rescore(project_id, scene, by_tile, scores, report)
        self._add(project_id, scene, [(scene.wanted[t], scores[t]) for t in missing], report)
        for row in by_tile.values():
            self._refresh_data(row, scene)
        self._remove(project_id, scene, surplus, report)
        self._clear_stale(project_id, scene)

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
            if row.model_version != scene.version or not scene.shows(row):
                lacking.append((row, scores[tile_id]))
            elif row.score_sent != scores[tile_id]:
                self._change_prediction(row, scene, score=scores[tile_id])
                with self.database.transaction() as session:
                    session.get_one(Task, row.id).score_sent = scores[tile_id]
                report.refreshed += 1
        report.refreshed += self._put_predictions(project_id, scene, lacking)

    def _change_prediction(self, row: Task, scene: Scene, **fields: Any) -> None:
        for prediction in self.client.task(row.ls_task_id).get("predictions", []):
            if prediction.get("model_version") == scene.version:
                self.client.update_prediction(int(prediction["id"]), **fields)

    def _add(self, project_id: int, scene: Scene, places: Sequence[tuple[Wanted, float]], report: PushReport) -> None:
        expires_at = scene.now + self.link_life
        for chunk in _chunks(places, CHUNK):
            results = self._results(project_id, scene.version, [w.tile_id for w, _ in chunk])
            ready = [(w, score) for w, score in chunk if w.tile_id in results]
            with self.database.transaction() as session:
                held = queue.reserve(session, project_id, [w.tile_id for w, _ in ready])
            ready = [(w, score) for w, score in ready if w.tile_id in held]
            if not ready:
                continue
            ids = self.client.import_tasks(
                scene.ls_project_id,
                [
                    {
                        "data": self._data(w, expires_at, scene.controls),
                        "predictions": [{"result": results[w.tile_id], "score": score, "model_version": scene.version}],
                    }
                    for w, score in ready
                ],
            )
            with self.database.transaction() as session:
                made = {number: w.tile_id for (w, _), number in zip(ready, ids, strict=True)}
                waited = set(tasks.free_numbers(session, project_id, made)) - set(made.values())
                queue.set_state(session, projects.get(session, project_id), sorted(waited), "open")
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
            report.added += len(ready)

    def _refresh_data(self, row: Task, scene: Scene) -> None:
        """The words above the picture and its link, when they changed, the link grows old, or we moved."""
        if row.origin != "head" and not scene.controls.why:
            return  # a person's task, and nowhere to show the words
        wanted, data = scene.wanted[row.tile_id], scene.there[row.ls_task_id]["data"]
        left = None if row.url_expires_at is None else row.url_expires_at - scene.now
        old = left is None or left < self.link_life * show_tile.LINK_RENEW_SHARE
        moved = not str(data.get("image", "")).startswith(f"{self.public_url}/")
        renew = row.origin == "head" and (old or moved)
        in_use = scene.in_use(row)  # then only the link is kept alive: a draft may wait longer than it lives
        if (row.why == wanted.why or in_use) and not renew:
            return
        if in_use and row.why is not None:
            wanted = replace(wanted, why=row.why)
        expires_at = scene.now + self.link_life
        fresh_data = (
            self._data(wanted, expires_at, scene.controls) if row.origin == "head" else {**data, "why": wanted.why}
        )
        self.client.update_task_data(row.ls_task_id, fresh_data)
        with self.database.transaction() as session:
            fresh = session.get_one(Task, row.id)
            fresh.why = wanted.why
            fresh.url_expires_at = expires_at if row.origin == "head" else None

    def _remove(self, project_id: int, scene: Scene, rows: Sequence[Task], report: PushReport) -> None:
        if not rows:
            return
        # Everything above took its time: who has opened, begun or labelled one meanwhile keeps it.
        listed = self.client.tasks(scene.ls_project_id, fields_all=False, unlabelled_only=True, columns=COLUMNS)
        with self.database.transaction() as session:
            scene = replace(scene, there={int(t["id"]): t for t in listed}, rows=rows).read_again(session)
        rows = [row for row in scene.rows if not scene.in_use(row)]
        self.client.delete_tasks(scene.ls_project_id, [t.ls_task_id for t in rows])
        with self.database.transaction() as session:
            for row in rows:
                session.get_one(Task, row.id).state = "gone"
            queue.set_state(session, projects.get(session, project_id), [t.tile_id for t in rows], "open")
        report.removed += len(rows)

    # -- shared steps -------------------------------------------------------------------------------------------

    def _put_predictions(self, project_id: int, scene: Scene, scored: Sequence[tuple[Task, float]]) -> int:
        """Returns how many there were to put: a tile that the model has not seen yet waits for its turn.

        One of this version that is there already (a pass that died, an earlier champion, a page that asked too early)
        is changed in place: deleting it would empty the project's version and refuse the labels of open pages.
        """
        put = 0
        for chunk in _chunks(scored, CHUNK):
            results = self._results(project_id, scene.version, [row.tile_id for row, _ in chunk])
            ready = [(row, score) for row, score in chunk if row.tile_id in results]
            for row, score in ready:
                if scene.shows(row):
                    self._change_prediction(row, scene, result=results[row.tile_id], score=score)
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
                    if not scene.shows(row)
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
            put += len(ready)
        return put

    def _results(self, project_id: int, version: str, tile_ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
        with self.database.transaction() as session:
            project = projects.get(session, project_id)
            classes = projects.classes_of(project)
            shown = show_tile.read_shown(session, project, version, tile_ids)
        results = {}
        for tile_id, one in shown.items():
            try:
                result = show_tile.result_of(self.blobs, one, classes, project.label_type)
                results[tile_id] = Controls.from_json(project.ls_controls).worded(result)
            except (BadInput, NotFound) as error:  # one that cannot be shown must not hold up the others
                LOG.warning("project=%s tile=%s cannot be shown: %s", project_id, tile_id, error)
        return results

    def _data(self, wanted: Wanted, expires_at: datetime, controls: Controls) -> dict[str, Any]:
        url = show_tile.link(self.keys, self.public_url, wanted.tile_id, expires_at)
        return {"image": url, controls.image_key: url, "why": wanted.why, "tile_id": wanted.tile_id}

    def _fix_version(self, ls_project_id: int, version: str) -> None:
        """Anything but the exact version turns the label stream random."""
        if self.client.project(ls_project_id).get("model_version") == version:
            return
        if self.client.model_versions(ls_project_id).get(version):
            self.client.set_model_version(ls_project_id, version)


def _chunks(rows: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
