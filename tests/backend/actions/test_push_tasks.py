"""The reconciler against a Label Studio that keeps tasks and predictions in memory and may die after any call."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from backend.actions.change_champion import promote
from backend.actions.collect_annotation import collect_task, mark_removed
from backend.actions.keep_prediction import keep_prediction
from backend.actions.push_tasks import HeadReconciler, PushReport
from backend.actions.rank_queue import rank_queue
from backend.clock import utc_now
from backend.labelstudio.controls import Controls
from backend.store import images, masks, predictions, projects, queue, tasks
from backend.store.annotations import ids_by_task
from backend.store.tables import Annotation, Image, Model, Task
from mpamatch.domain.policy import Policy
from mpamatch.domain.regions import Region
from mpamatch.domain.tiling import Box
from mpamatch.errors import NotFound
from mpamatch.files.rasters import decode_raster
from tests.builders import Installation, add_model, disc, installation, predict_all

pytestmark = pytest.mark.database
LS_PROJECT, URL = 56, "http://127.0.0.1:9"
# Uncertainty, margin, impurity, disagreement, class and confidence of a region.
OUTSIDE = (0.5, 0.2, 0.3, 0.0, 1, 0.6)


class Killed(BaseException):
    """The process ended here."""


class Studio:
    """What Label Studio keeps. ``kill_after``: writes until the caller dies; ``meanwhile``: called before an import.

    Tasks are numbered from the highest that is left, as Label Studio does it on SQLite: numbers come again.
    """

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
            number = max(self.held, default=0) + 1
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


def _next_champion(made: Installation, version: str, *, region_count: int = 1) -> None:
    model = add_model(made, version)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        row = session.get_one(Model, model.id)
        promote(session, project, row, actor="test", now=utc_now(), provisional=False, why="")
    predict_all(made, model, region_count=region_count)
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


def _labelled_then_deleted(made: Installation, studio: Studio) -> tuple[int, int]:
    """A person's label on the last task, whose task is then deleted there; its number and the annotation's row."""
    number = max(studio.held)
    with made.database.transaction() as session:
        row = tasks.by_ls_id(session, made.project_id, number)
        assert row is not None
        label = Annotation(
            project_id=made.project_id,
            tile_id=row.tile_id,
            ls_annotation_id=1,
            ls_task_id=number,
            result_blob="x",
            updated_at=utc_now(),
            state="present",
        )
        session.add(label)
        session.flush()
        row.state = "labelled"
        queue.set_state(session, projects.get(session, made.project_id), [row.tile_id], "done")
        label_id = label.id
    del studio.held[number]
    mark_removed(made.database, made.project_id, [number])
    return number, label_id


def test_a_number_that_comes_again_is_another_task_and_the_earlier_ones_label_stays(made: Installation) -> None:
    studio = Studio()
    _reconcile(made, studio)
    number, label_id = _labelled_then_deleted(made, studio)
    _reconcile(made, studio)
    assert number in studio.held
    _check(made, studio)
    with made.database.transaction() as session:
        label = session.get_one(Annotation, label_id)
        earlier = tasks.by_ls_id(session, made.project_id, label.ls_task_id)
        assert label.state == "present"
        assert earlier is not None
        assert (earlier.state, earlier.tile_id) == ("gone", label.tile_id)
        assert number not in ids_by_task(session, made.project_id), "the new task has no labels of the earlier one"


@pytest.mark.parametrize("kill_after", [0, 1])
def test_a_number_that_comes_again_is_adopted_when_its_import_was_not_noted(
    made: Installation, kill_after: int
) -> None:
    studio = Studio()
    _reconcile(made, studio)
    _labelled_then_deleted(made, studio)
    _reconcile(made, studio, kill_after=kill_after)
    _reconcile(made, studio)
    _reconcile(made, studio)
    _check(made, studio)


def test_a_number_that_came_again_before_anybody_noticed_is_not_taken_for_the_earlier_task(made: Installation) -> None:
    studio = Studio()
    _reconcile(made, studio)
    last, before = max(studio.held), len(studio.held)
    _next_champion(made, "m1")

    def somebody_deletes_the_last() -> None:
        studio.held.pop(last, None)

    studio.meanwhile = somebody_deletes_the_last
    _reconcile(made, studio)
    studio.meanwhile = lambda: None
    _reconcile(made, studio)
    _reconcile(made, studio)
    assert len(studio.held) == before
    _check(made, studio)


def test_a_task_that_was_taken_for_gone_and_is_there_gets_its_row_back(made: Installation) -> None:
    studio = Studio()
    _reconcile(made, studio)
    numbers = set(studio.held)
    mark_removed(made.database, made.project_id, sorted(numbers))
    _reconcile(made, studio)
    assert set(studio.held) == numbers, "none is there twice"
    _check(made, studio)


def test_a_stray_second_task_of_a_tile_is_deleted_though_its_number_is_known(made: Installation) -> None:
    studio = Studio()
    _reconcile(made, studio)
    number, _ = _labelled_then_deleted(made, studio)
    _reconcile(made, studio)
    first = min(studio.held)
    with made.database.transaction() as session:
        gone = tasks.by_ls_id(session, made.project_id, number)
        assert gone is not None
        session.add(Task(project_id=made.project_id, tile_id=gone.tile_id, ls_task_id=99, origin="head", state="gone"))
    studio.held[99] = {"data": dict(studio.held[first]["data"]), "predictions": []}
    _reconcile(made, studio)
    assert 99 not in studio.held
    _check(made, studio)


@pytest.mark.parametrize(("region_count", "words"), [(6, "5 more uncertain regions"), (8, "6 of 8 regions shown")])
def test_the_words_say_how_many_regions_have_no_box(made: Installation, region_count: int, words: str) -> None:
    studio = Studio()
    _next_champion(made, "m1", region_count=region_count)
    _reconcile(made, studio)
    audit = {t.id for t in made.tiles("audit")}
    told = [t for t in studio.held.values() if t["data"]["tile_id"] not in audit]
    assert told
    for task in told:
        assert task["data"]["why"].endswith(f"; {words}")
        boxes = [item for item in task["predictions"][0]["result"] if item["from_name"] == "review"]
        assert len(boxes) == 6


def test_the_line_above_the_picture_says_why_in_words(made: Installation) -> None:
    labelled, *others = (tile.id for tile in made.tiles("train"))
    model = add_model(made, "m1")
    outline = ((0.0, 0.0), (40.0, 0.0), (40.0, 31.2), (0.0, 31.2), (0.0, 0.0))
    region = Region(Box(0, 0, 40, 32), (outline,), 1248, 0.7, 0.1, 0.1, 1.0, 1, 0.41)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.change_policy(session, project, {"exploration_share": 0.0}, actor="test")
        row = session.get_one(Model, model.id)
        promote(session, project, row, actor="test", now=utc_now(), provisional=False, why="")
        for image in session.scalars(select(Image)):
            image.um_per_px = 0.5
        masks.append(session, tile_id=labelled, origin="annotated", blob=made.blobs.put(b"x"), reviewed_share=1.0)
    for tile in made.tiles():
        looks = [[1.0, 0.0] if tile.id == labelled else [0.0, 1.0]] * 2
        keep_prediction(
            made.database,
            made.blobs,
            tile_id=tile.id,
            model_id=model.id,
            class_map=disc(),
            confidence=np.full((64, 64), 0.41, np.float32),
            regions=(region,),
            embeddings=np.array(looks),
        )
    assert rank_queue(made.database, made.project_id, blobs=made.blobs)
    studio = Studio()
    _reconcile(made, studio)
    said = {t["data"]["why"] for t in studio.held.values() if t["data"]["tile_id"] in others}
    words = "confidence 0.41 below 0.95 over 312 um2; head and prototypes disagree; unlike anything labelled"
    assert said == {words, f"{words}; among the most doubtful of its class"}


def test_without_a_control_for_boxes_none_are_counted(made: Installation) -> None:
    with made.database.transaction() as session:
        projects.get(session, made.project_id).ls_controls = Controls(review=False).to_json()
    studio = Studio()
    _next_champion(made, "m1", region_count=8)
    _reconcile(made, studio)
    assert studio.held
    assert not any("regions shown" in t["data"]["why"] for t in studio.held.values())


def _answer_in_part(made: Installation, studio: Studio, version: str, number: int, updated: str) -> int:
    """Somebody labels the first train task of a version inside its boxes and is collected; the tile."""
    with made.database.transaction() as session:
        rows = tasks.live(session, made.project_id)
        audit = images.audit_tiles(session, [row.tile_id for row in rows])
        row = next(row for row in rows if row.tile_id not in audit)
    held = studio.held[row.ls_task_id]
    held["labelled"] = True
    (shown,) = (p for p in held["predictions"] if p["model_version"] == version)
    held["annotations"] = [
        {"id": number, "result": shown["result"], "updated_at": updated, "completed_by": 3, "was_cancelled": False}
    ]
    _collect(made, studio, row.ls_task_id)
    return row.tile_id


def _collect(made: Installation, studio: Studio, number: int) -> None:
    collect_task(made.database, made.blobs, made.project_id, studio.task(number), now=utc_now())


def _asked_again(made: Installation, studio: Studio) -> tuple[int, int, int]:
    """A tile answered in part under one champion and shown anew under the next: tile, its first task, its second."""
    _next_champion(made, "m1")
    _reconcile(made, studio)
    tile_id = _answer_in_part(made, studio, "m1", 7, "2026-03-01T10:00:00Z")
    with made.database.transaction() as session:
        first = tasks.of_tile(session, tile_id)
        mask = masks.newest_counting(session, tile_id)
    assert first is not None
    assert mask is not None
    assert 0 < mask.reviewed_share < 1
    _reconcile(made, studio)
    with made.database.transaction() as session:
        assert tasks.tiles_with_one(session, made.project_id, [tile_id]) == frozenset(), "not under the same champion"
        project = projects.get(session, made.project_id)
        projects.change_policy(session, project, {"head_size": 10}, actor="test")
    model = add_model(made, "m2")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        promote(
            session,
            project,
            session.get_one(Model, model.id),
            actor="test",
            now=utc_now(),
            provisional=False,
            why="",
        )
    region = Region(Box(40, 40, 20, 20), (((40.0, 40.0), (60.0, 40.0), (60.0, 60.0), (40.0, 40.0)),), 200, *OUTSIDE)
    keep_prediction(
        made.database,
        made.blobs,
        tile_id=tile_id,
        model_id=model.id,
        class_map=disc(x=48, y=48),
        confidence=np.full((64, 64), 0.6, np.float32),
        regions=(region,),
        known_mask_id=mask.id,
    )
    predict_all(made, model)
    assert rank_queue(made.database, made.project_id)
    _reconcile(made, studio)
    with made.database.transaction() as session:
        second = tasks.of_tile(session, tile_id)
    assert second is not None
    assert second.state == "live"
    assert second.ls_task_id != first.ls_task_id
    assert first.ls_task_id in studio.held, "a label is never deleted"
    return tile_id, first.ls_task_id, second.ls_task_id


def _counting(made: Installation, tile_id: int) -> np.ndarray:
    with made.database.transaction() as session:
        mask = masks.newest_counting(session, tile_id)
    assert mask is not None
    return decode_raster(made.blobs.get(mask.blob))


def _entry_state(made: Installation, tile_id: int) -> str | None:
    with made.database.transaction() as session:
        entry = queue.of_tiles(session, projects.get(session, made.project_id), [tile_id]).get(tile_id)
    return None if entry is None else entry.state


def _submit(made: Installation, studio: Studio, number: int, annotation: int, updated: str) -> None:
    held = studio.held[number]
    held["labelled"] = True
    held["annotations"] = [
        {
            "id": annotation,
            "result": held["predictions"][-1]["result"],
            "updated_at": updated,
            "completed_by": 4,
            "was_cancelled": False,
        }
    ]
    _collect(made, studio, number)


def test_a_tile_answered_in_part_gets_a_second_task_under_the_next_champion_and_both_labels_count(
    made: Installation,
) -> None:
    studio = Studio()
    tile_id, first, second = _asked_again(made, studio)
    before = _counting(made, tile_id)
    _submit(made, studio, second, 8, "2026-03-02T10:00:00Z")
    after = _counting(made, tile_id)
    assert (after[before != 255] == before[before != 255]).all()
    assert (after[40:60, 40:60] != 255).all()
    assert (before[40:60, 40:60] == 255).any()
    assert _entry_state(made, tile_id) == "done"
    assert ids_by_task_of(made) == {first: {7}, second: {8}}
    _reconcile(made, studio)
    assert {first, second} <= set(studio.held)


def ids_by_task_of(made: Installation) -> dict[int, set[int]]:
    with made.database.transaction() as session:
        return ids_by_task(session, made.project_id)


def test_the_first_label_changed_while_the_second_task_waits_adds_to_it_and_ends_the_question(
    made: Installation,
) -> None:
    studio = Studio()
    tile_id, first, second = _asked_again(made, studio)
    label = studio.held[first]["annotations"][0]
    label["updated_at"] = "2026-03-03T10:00:00Z"
    label["result"] = [item for item in label["result"] if item["from_name"] != "seg"]
    before = _counting(made, tile_id)
    _collect(made, studio, first)
    changed = _counting(made, tile_id)
    assert (changed[10:30, 10:30] == 0).all(), "the newest word on a pixel"
    assert (before[10:30, 10:30] == 1).any()
    assert _entry_state(made, tile_id) == "done", "this champion did not know that"
    _reconcile(made, studio)
    assert second not in studio.held
    assert first in studio.held


def test_the_first_label_deleted_while_the_second_task_waits_leaves_one_task(made: Installation) -> None:
    studio = Studio()
    tile_id, first, second = _asked_again(made, studio)
    studio.held[first] |= {"annotations": [], "labelled": False}
    _collect(made, studio, first)
    _reconcile(made, studio)
    assert second in studio.held
    assert first not in studio.held
    with made.database.transaction() as session:
        assert tasks.tiles_with_one(session, made.project_id, [tile_id]) == {tile_id}
        assert masks.newest_counting(session, tile_id) is None


def test_the_second_label_deleted_lets_its_task_wait_again_and_the_first_label_count(made: Installation) -> None:
    studio = Studio()
    tile_id, _, second = _asked_again(made, studio)
    before = _counting(made, tile_id)
    _submit(made, studio, second, 8, "2026-03-02T10:00:00Z")
    studio.held[second] |= {"annotations": [], "labelled": False}
    _collect(made, studio, second)
    assert (_counting(made, tile_id) == before).all()
    assert _entry_state(made, tile_id) == "leased"
    _reconcile(made, studio)
    assert second in studio.held


def test_a_second_task_whose_import_was_never_written_down_is_adopted(made: Installation) -> None:
    studio = Studio()
    tile_id, _, second = _asked_again(made, studio)
    with made.database.transaction() as session:
        row = tasks.of_tile(session, tile_id)
        assert row is not None
        session.delete(row)
    _reconcile(made, studio)
    assert second in studio.held
    with made.database.transaction() as session:
        row = tasks.of_tile(session, tile_id)
    assert row is not None
    assert (row.ls_task_id, row.state) == (second, "live")
