"""The reconciler against a Label Studio that keeps tasks and predictions in memory and may die after any call."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from backend.actions.change_champion import promote
from backend.actions.push_tasks import HeadReconciler, PushReport
from backend.actions.rank_queue import rank_queue
from backend.clock import utc_now
from backend.store import images, predictions, projects, queue, tasks
from backend.store.tables import Image, Model, Task
from mpamatch.domain.policy import Policy
from mpamatch.errors import NotFound
from tests.builders import Installation, add_model, installation, predict_all

pytestmark = pytest.mark.database
LS_PROJECT, URL = 56, "http://127.0.0.1:9"


class Killed(BaseException):
    """The process ended here."""


class Studio:
    """What Label Studio keeps. ``kill_after``: writes until the caller dies; ``meanwhile``: called before an import."""

    def __init__(self) -> None:
        self.held: dict[int, dict[str, Any]] = {}
        self.version: str | None = None
        self.emptied = False
        self.kill_after: int | None = None
        self.meanwhile: Callable[[], None] = lambda: None
        self._numbers = itertools.count(1)

    def _wrote(self) -> None:
        if self.kill_after is not None:
            self.kill_after -= 1
            if self.kill_after < 0:
                raise Killed

    def tasks(self, project_id: int, **options: Any) -> list[dict[str, Any]]:
        return [
            {
                "id": number,
                "data": task["data"],
                "draft_exists": task.get("draft", False),
                "predictions_model_versions": ",".join(sorted({p["model_version"] for p in task["predictions"]})),
            }
            for number, task in sorted(self.held.items())
            if not task.get("labelled")
        ]

    def task(self, number: int) -> dict[str, Any]:
        if number not in self.held:
            raise NotFound(f"task {number}", "404")
        return {"id": number, **self.held[number]}

    def project(self, project_id: int) -> dict[str, Any]:
        return {"model_version": self.version}

    def model_versions(self, project_id: int) -> dict[str, int]:
        found: dict[str, int] = {}
        for task in self.held.values():
            for prediction in task["predictions"]:
                found[prediction["model_version"]] = found.get(prediction["model_version"], 0) + 1
        return found

    def import_tasks(self, project_id: int, made: list[dict[str, Any]]) -> list[int]:
        self.meanwhile()
        ids = []
        for task in made:
            number = next(self._numbers)
            predictions = [{"id": next(self._numbers), **p} for p in task["predictions"]]
            self.held[number] = {"data": task["data"], "predictions": predictions}
            ids.append(number)
        self._wrote()
        return ids

    def import_predictions(self, project_id: int, made: list[dict[str, Any]]) -> int:
        if not made:
            return 0
        for prediction in made:
            content = {k: v for k, v in prediction.items() if k != "task"}
            self.held[prediction["task"]]["predictions"].append({"id": next(self._numbers), **content})
        self._wrote()
        return len(made)

    def update_prediction(self, number: int, **fields: Any) -> None:
        for task in self.held.values():
            for prediction in task["predictions"]:
                if prediction["id"] == number:
                    prediction.update(fields)
        self._wrote()

    def update_task_data(self, number: int, data: dict[str, Any]) -> None:
        self.held[number]["data"] = data
        self._wrote()

    def delete_tasks(self, project_id: int, numbers: list[int]) -> int:
        for number in numbers:
            assert not self.held[number].get("labelled"), "a label was deleted"
            del self.held[number]
        self._wrote()
        return len(numbers)

    def set_model_version(self, project_id: int, version: str) -> None:
        self.version = version
        self._wrote()

    def delete_model_version(self, project_id: int, version: str) -> int:
        self.emptied |= version == self.version
        for task in self.held.values():
            task["predictions"] = [p for p in task["predictions"] if p["model_version"] != version]
        self._wrote()
        return 0

    def delete_prediction(self, number: int) -> None:
        for task in self.held.values():
            task["predictions"] = [p for p in task["predictions"] if p["id"] != number]
        self._wrote()


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """Ten tiles that a blank champion has seen and that are ranked; the head has four places."""
    made = installation(database_url, tmp_path, train=8, audit=2, policy=Policy(debounce_s=0, head_size=4))
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.ls_project_id = LS_PROJECT
        champion = projects.champion(session, project)
    predict_all(made, champion)
    assert rank_queue(made.database, made.project_id)
    return made


def _reconcile(made: Installation, studio: Studio, *, kill_after: int | None = None) -> PushReport | None:
    client: Any = studio
    reconciler = HeadReconciler(
        made.database, made.blobs, made.keys, client, URL, open_page_s=600, link_life=timedelta(days=7)
    )
    studio.kill_after = kill_after
    try:
        return reconciler.reconcile(made.project_id, now=utc_now())
    except Killed:
        return None
    finally:
        studio.kill_after = None


def _next_champion(made: Installation, version: str) -> None:
    model = add_model(made, version)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        row = session.get_one(Model, model.id)
        promote(session, project, row, actor="test", now=utc_now(), provisional=False, why="")
    predict_all(made, model)
    assert rank_queue(made.database, made.project_id)


def _check(made: Installation, studio: Studio) -> None:
    """Label Studio holds exactly the head, one prediction of the champion each, and serves it in our order."""
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        version = projects.champion(session, project).version
        head = [e.tile_id for e in queue.head(session, project, 4)]
        rows = {t.ls_task_id: t for t in tasks.live(session, made.project_id)}
        audit = images.audit_tiles(session, head)
    assert set(rows) == set(studio.held)
    assert studio.version == project.ls_model_version == version
    scores = {rows[number].tile_id: [p["score"] for p in task["predictions"]] for number, task in studio.held.items()}
    assert all(len(found) == 1 for found in scores.values())
    assert sorted(scores, key=lambda t: scores[t]) == head
    assert len({found[0] for found in scores.values()}) == len(head)
    for number, task in studio.held.items():
        assert [p["model_version"] for p in task["predictions"]] == [version]
        assert not (rows[number].tile_id in audit and task["predictions"][0]["result"])


def test_the_head_is_made_whole_wherever_a_pass_is_killed(made: Installation) -> None:
    studio = Studio()
    for kill_after in range(4):
        _reconcile(made, studio, kill_after=kill_after)
    _reconcile(made, studio)
    _reconcile(made, studio)
    _check(made, studio)


@pytest.mark.parametrize("kill_after", range(14))
def test_a_roll_out_killed_anywhere_ends_whole_and_never_empties_the_version(
    made: Installation, kill_after: int
) -> None:
    studio = Studio()
    _reconcile(made, studio)
    _next_champion(made, "m1")
    _reconcile(made, studio, kill_after=kill_after)
    _reconcile(made, studio)
    _reconcile(made, studio)
    _check(made, studio)
    assert not studio.emptied


def test_an_empty_prediction_that_a_page_pulled_too_early_is_filled_in_place(made: Installation) -> None:
    studio = Studio()
    _reconcile(made, studio)
    _next_champion(made, "m1")
    for task in studio.held.values():
        task["predictions"].append({"id": 9000 + task["predictions"][0]["id"], "model_version": "m1", "result": []})
    pulled = {p["id"] for task in studio.held.values() for p in task["predictions"] if p["model_version"] == "m1"}
    _reconcile(made, studio)
    kept = [p for task in studio.held.values() for p in task["predictions"] if p["id"] in pulled]
    assert kept
    assert any(p["result"] for p in kept)
    _check(made, studio)


def test_a_label_given_while_the_head_changes_keeps_its_task(made: Installation) -> None:
    studio = Studio()
    _reconcile(made, studio)
    _next_champion(made, "m1")
    before = set(studio.held)

    def somebody_is_quick() -> None:
        for number in before:
            studio.held[number]["labelled"] = True

    studio.meanwhile = somebody_is_quick
    report = _reconcile(made, studio)
    assert report is not None
    assert report.added
    assert before <= set(studio.held)


def test_a_page_opened_while_the_head_changes_keeps_its_task_and_its_prediction(made: Installation) -> None:
    studio = Studio()
    _reconcile(made, studio)
    _next_champion(made, "m1")
    before = {number: task["predictions"][0]["id"] for number, task in studio.held.items()}

    def somebody_looks() -> None:
        with made.database.transaction() as session:
            for row in tasks.live(session, made.project_id):
                tasks.note_opened(session, row.tile_id, now=utc_now())

    studio.meanwhile = somebody_looks
    _reconcile(made, studio)
    for number, prediction in before.items():
        assert prediction in [p["id"] for p in studio.held[number]["predictions"]]


def test_a_draft_that_waits_longer_than_its_link_keeps_its_picture(made: Installation) -> None:
    studio = Studio()
    _reconcile(made, studio)
    number = min(studio.held)
    studio.held[number]["draft"] = True
    with made.database.transaction() as session:
        row = session.scalars(select(Task).where(Task.ls_task_id == number)).one()
        row.url_expires_at = utc_now()
        row.why = "as it was"
    before = {**studio.held[number]["data"], "image": f"{URL}/an old link"}
    studio.held[number]["data"] = before
    _reconcile(made, studio)
    after = studio.held[number]["data"]
    assert after["image"] != before["image"]
    assert after["why"] == "as it was"


def test_a_prediction_that_cannot_be_shown_holds_up_no_other(made: Installation) -> None:
    studio = Studio()
    _next_champion(made, "m1")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        head = [e.tile_id for e in queue.head(session, project, 4)]
        audit = images.audit_tiles(session, head)
        shown = predictions.by_version(session, made.project_id, "m1", head)
    made.blobs.path(shown[next(t for t in head if t not in audit)].class_blob).unlink()  # one raster, shared by all
    report = _reconcile(made, studio)
    assert report is not None
    assert report.added == len(audit)


def test_a_tile_whose_image_was_set_aside_leaves_label_studio(made: Installation) -> None:
    studio = Studio()
    _reconcile(made, studio)
    with made.database.transaction() as session:
        first = tasks.live(session, made.project_id)[0]
        tile = next(t for t in made.tiles() if t.id == first.tile_id)
        images.quarantine(session, tile.image_id, "cannot be read", actor="test")
        assert session.get_one(Image, tile.image_id).problem == "cannot be read"
    _reconcile(made, studio)
    _check(made, studio)
    assert first.ls_task_id not in studio.held
