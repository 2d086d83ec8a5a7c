"""How long a head takes to stand in Label Studio: 200 tiles of 1024 px with predictions, in the order of the queue.

All real, as `mpamatch up` starts it: PostgreSQL, Redis, the API that Label Studio tells of each task, and Label Studio
on its SQLite. The time is that of one pass of the worker over a project with nothing there yet, until Label Studio
lists every task with its prediction. The whole is compared with the queue afterwards: tiles, order, scores, results,
and which task Label Studio hands out first.

Tiles are drawn tissue; their masks are frayed along every outline, as a young model draws them, which makes results
large. Few pictures serve many tiles, since Label Studio fetches a picture when a person opens its task.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

# Run as a file: the repository's root takes the place of this folder, where `queue` is not the standard library's.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import httpx
from sqlalchemy import delete, update

from backend.actions.connect_project import connect_project
from backend.actions.push_tasks import HeadReconciler
from backend.clock import utc_now
from backend.settings import Settings
from backend.store import projects, queue
from backend.store.open_blobs import open_blobs
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import QueueEntry, Task
from benchmarks._drawn_project import VERSION, make_project
from benchmarks._installation import LabelStudio, running_api, running_label_studio, running_servers
from benchmarks.report import Figure, run

WAIT_S = 300.0


@dataclass(frozen=True)
class Load:
    """How much: tasks of the head, tiles of the pool, drawn pictures, their side, and pushes to take the median of."""

    head: int = 200
    tiles: int = 240
    pictures: int = 6
    side_px: int = 1024
    pushes: int = 3


@dataclass(frozen=True)
class Pushed:
    """What one push took: until everything stood there, and for a second pass with nothing to do."""

    seconds: float
    settled_s: float
    result_mb: float


def measure(load: Load = Load()) -> dict[str, Figure]:
    """Every figure. Raises RuntimeError when Label Studio does not show what the queue says."""
    with ExitStack() as stack:
        settings = stack.enter_context(running_servers())
        database = Database(settings.require_database_url())
        stack.callback(database.close)
        project_id = make_project(
            database,
            open_blobs(settings),
            tiles=load.tiles,
            pictures=load.pictures,
            side_px=load.side_px,
            head_size=load.head,
        )
        api = stack.enter_context(running_api(settings))
        studio = stack.enter_context(running_label_studio(settings))
        publisher = Publisher(settings, database, studio, api.url, project_id)
        pushed = [publisher.push() for _ in range(load.pushes)]
        release = studio.client.version()
    seconds = [one.seconds for one in pushed]
    what = f"{load.head} of {load.tiles} tiles of {load.side_px} px, {pushed[0].result_mb:.1f} MB of predictions"
    key = f"head_{load.head}"
    return {
        f"{key}_published_s": Figure(
            statistics.median(seconds),
            "s",
            30.0,
            f"{what}, Label Studio {release} on SQLite; median of {len(seconds)}, order compared with the queue's",
        ),
        f"{key}_published_max_s": Figure(max(seconds), "s", None, "the slowest of these"),
        f"{key}_settled_s": Figure(
            statistics.median(one.settled_s for one in pushed), "s", None, "a pass over the same that changes nothing"
        ),
    }


class Publisher:
    """A ranked project beside a Label Studio and an API that run."""

    def __init__(
        self, settings: Settings, database: Database, studio: LabelStudio, api_url: str, project_id: int
    ) -> None:
        self._database = database
        self._studio = studio
        self._client = studio.client
        self._api_url = api_url
        self._project_id = project_id
        self._keys = KeyRing.at(settings.state / "key")
        self._reconciler = HeadReconciler(
            database,
            open_blobs(settings),
            self._keys,
            studio.client,
            api_url,
            open_page_s=settings.open_page_s,
            link_life=timedelta(days=settings.image_url_days),
        )

    def push(self) -> Pushed:
        """Publish the head into a new project of Label Studio; that one is gone afterwards."""
        ls_project_id = connect_project(
            self._database,
            self._keys,
            self._client,
            self._project_id,
            url=self._client.url,
            token=self._studio.token,
            backend_url=self._api_url,
            verify=True,
        )
        order = self._head()
        began = time.perf_counter()
        self._reconciler.reconcile(self._project_id, now=utc_now())
        while (standing := self._standing(ls_project_id)) < len(order):
            if time.perf_counter() - began > WAIT_S:
                raise RuntimeError(f"Label Studio shows {standing} of {len(order)} tasks with their prediction")
            time.sleep(0.1)
        seconds = time.perf_counter() - began
        result_mb = self._compared(ls_project_id, order)
        began = time.perf_counter()
        if self._reconciler.reconcile(self._project_id, now=utc_now()).changed:
            raise RuntimeError("a second pass found something to change")
        settled_s = time.perf_counter() - began
        self._forget(ls_project_id)
        return Pushed(seconds, settled_s, result_mb)

    def _head(self) -> list[int]:
        with self._database.transaction() as session:
            project = projects.get(session, self._project_id)
            return [e.tile_id for e in queue.head(session, project, projects.policy_of(project).head_size)]

    def _standing(self, ls_project_id: int) -> int:
        """How many tasks carry a prediction of the champion, as a light listing tells it."""
        listed = self._client.tasks(ls_project_id, fields_all=False, columns=("predictions_model_versions",))
        return sum(task.get("predictions_model_versions") == VERSION for task in listed)

    def _compared(self, ls_project_id: int, order: list[int]) -> float:
        """Megabytes of predictions. Raises RuntimeError when tasks differ from the order or a prediction is empty."""
        tasks = list(self._client.tasks(ls_project_id))
        if any(len(task["predictions"]) != 1 or not task["predictions"][0]["result"] for task in tasks):
            raise RuntimeError("a task has no prediction, an empty one or several")
        by_score = sorted(tasks, key=lambda task: task["predictions"][0]["score"])
        if [task["data"]["tile_id"] for task in by_score] != order:
            raise RuntimeError("by score, Label Studio's tasks are not in the order of the queue")
        if self._next(ls_project_id) != order[0]:
            raise RuntimeError("Label Studio hands out another task first")
        return sum(len(json.dumps(task["predictions"][0]["result"])) for task in tasks) / 1e6

    def _next(self, ls_project_id: int) -> int:
        """The tile of the task that Label Studio hands out."""
        return int(self._asked("GET", f"/api/projects/{ls_project_id}/next").json()["data"]["tile_id"])

    def _asked(self, method: str, path: str) -> httpx.Response:
        """A call that the product never makes."""
        headers = {"Authorization": f"Token {self._studio.token}"}
        answer = httpx.request(method, self._client.url + path, headers=headers, timeout=120, trust_env=False)
        return answer.raise_for_status()

    def _forget(self, ls_project_id: int) -> None:
        """As before the push: nothing published, nothing connected."""
        self._asked("DELETE", f"/api/projects/{ls_project_id}")
        with self._database.transaction() as session:
            session.execute(delete(Task).where(Task.project_id == self._project_id))
            session.execute(
                update(QueueEntry)
                .where(QueueEntry.project_id == self._project_id, QueueEntry.state == "leased")
                .values(state="open", lease_holder=None)
            )
            project = projects.get(session, self._project_id)
            project.ls_project_id = project.ls_model_version = None


if __name__ == "__main__":
    run(measure, __doc__)
