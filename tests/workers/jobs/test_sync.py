from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from backend.actions import show_tile
from backend.clock import utc_now
from backend.labelstudio.results import class_map_to_result, scope_item
from backend.settings import Settings
from backend.signs import Signs, look_at_broker
from backend.store import events, inbox, projects
from backend.store.tables import Annotation, Event, Inbox, Mask, Task
from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput, NotFound
from tests.builders import Installation, disc, installation
from workers.jobs import sync
from workers.parts import Parts

pytestmark = pytest.mark.database
LS_PROJECT = 5


class Silent:
    """Wake-ups that nobody needs."""

    def sync(self, project_id: int, *, full: bool = False) -> None: ...
    def predict(self) -> None: ...
    def train(self) -> None: ...


class Studio:
    """Tasks as Label Studio would answer them; a picture below it is gone."""

    def __init__(self, tasks: list[dict[str, Any]]) -> None:
        self._tasks = tasks

    def tasks(self, project_id: int, changed_since: Any = None) -> list[dict[str, Any]]:
        return self._tasks

    def fetch_image(self, url: str) -> bytes:
        raise NotFound(f"GET {url}", "404: no details")

    def task(self, task_id: int) -> dict[str, Any]:
        return next(t for t in self._tasks if t["id"] == task_id)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    made = installation(database_url, tmp_path, train=3, audit=0)
    with made.database.transaction() as session:
        projects.get(session, made.project_id).ls_project_id = LS_PROJECT
    return made


def _parts(made: Installation) -> Parts:
    wakeups: Any = Silent()
    return Parts(Settings(state=made.folder), made.database, made.blobs, made.keys, wakeups, "test:1:1.0")


def _labelled(made: Installation, ls_task_id: int, place: int, *, second: int) -> dict[str, Any]:
    tile = made.tiles("train")[place]
    classes = ClassSet.from_names(["background", "gland"])
    at = f"2026-03-01T10:00:{second:02d}Z"
    annotation = {
        "id": 100 + ls_task_id,
        "result": [*class_map_to_result(disc(), classes), scope_item("whole tile")],
        "updated_at": at,
        "was_cancelled": False,
    }
    link = show_tile.link(made.keys, "http://127.0.0.1:1", tile.id, utc_now())
    data = {"image": link, "tile_id": tile.id}
    return {"id": ls_task_id, "project": LS_PROJECT, "data": data, "annotations": [annotation], "updated_at": at}


def test_one_odd_task_holds_up_no_other_and_is_read_again(made: Installation) -> None:
    odd = _labelled(made, 1, 0, second=1)
    odd["annotations"][0]["updated_at"] = "no time at all"
    gone = {"id": 2, "data": {"image": "/data/upload/5/gone.png"}, "annotations": [], "updated_at": odd["updated_at"]}
    studio: Any = Studio([odd, gone, _labelled(made, 3, 1, second=30)])
    assert sync._poll(_parts(made), studio, made.project()) == 1
    cursor = made.project().ls_cursor
    assert cursor is not None
    assert cursor.second == 1
    with made.database.transaction() as session:
        assert len(session.scalars(select(Mask)).all()) == 1


def test_a_label_on_a_task_that_a_dying_worker_imported_is_kept(made: Installation) -> None:
    studio: Any = Studio([_labelled(made, 9, 0, second=1)])
    for _ in range(2):
        sync._poll(_parts(made), studio, made.project())
    with made.database.transaction() as session:
        assert [t.ls_task_id for t in session.scalars(select(Task))] == [9]
        assert len(session.scalars(select(Annotation)).all()) == 1


def test_an_odd_delivery_is_set_aside_with_its_reason(made: Installation) -> None:
    odd = _labelled(made, 1, 0, second=1)
    odd["annotations"][0]["updated_at"] = "no time at all"
    with made.database.transaction() as session:
        inbox.keep(session, project_id=made.project_id, dedupe_key="k", action="A", payload={"task": {"id": 1}})
    studio: Any = Studio([odd])
    sync._labels_in(_parts(made), studio, made.project(), full=False)
    with made.database.transaction() as session:
        row = session.scalars(select(Inbox)).one()
        assert (row.applied_at is not None, row.problem) == (True, "unexpected ValueError")


def test_a_label_studio_that_is_away_is_counted_as_a_failure_and_not_as_a_step(
    made: Installation, redis_url: str
) -> None:
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.ls_url, project.ls_token = "http://127.0.0.1:9", made.keys.seal("a token")
    sync.sync_project(replace(_parts(made), signs=Signs(redis_url)), made.project_id, full=True)
    seen = look_at_broker(redis_url)
    assert (seen.failures, seen.synced_at) == ({made.project_id: 1}, {})


def test_a_task_is_read_once_however_many_deliveries_name_it_and_the_odd_one_spoils_no_other(
    made: Installation,
) -> None:
    odd = _labelled(made, 1, 0, second=1)
    odd["annotations"][0]["updated_at"] = "no time at all"
    read: list[int] = []

    class Counting(Studio):
        def task(self, task_id: int) -> dict[str, Any]:
            read.append(task_id)
            return super().task(task_id)

    with made.database.transaction() as session:
        for number in range(2 * sync.INBOX_BATCH // 5):
            payload = {"task": {"id": 1 + number % 2}}
            inbox.keep(session, project_id=made.project_id, dedupe_key=f"k{number}", action="A", payload=payload)
    studio: Any = Counting([odd, _labelled(made, 2, 1, second=2)])
    sync._labels_in(_parts(made), studio, made.project(), full=False)
    with made.database.transaction() as session:
        rows = session.scalars(select(Inbox).order_by(Inbox.id)).all()
        assert [row.problem for row in rows[:4]] == ["unexpected ValueError", None, "unexpected ValueError", None]
        assert all(row.applied_at is not None for row in rows)
        assert len(session.scalars(select(Mask)).all()) == 1
    assert sorted(read) == [1, 2]


def test_a_stage_that_cannot_work_stops_no_other(made: Installation) -> None:
    def refused() -> bool:
        raise BadInput("Label Studio token", "401")

    assert sync._stage("labels", made.project_id, refused) is False


def test_every_look_seals_what_was_recorded(made: Installation) -> None:
    parts = _parts(made)
    with made.database.transaction() as session:
        projects.change_policy(session, projects.get(session, made.project_id), {"tau": 0.9}, actor="test")
    sync.sync_project(parts, made.project_id, full=False)
    with made.database.transaction() as session:
        assert events.chain_head(session, made.project_id) is not None
        assert events.verify_chain(session, made.project_id) is None
        assert session.scalars(select(Event).where(Event.seal.is_(None))).all() == []


def test_while_labels_differ_from_the_classes_the_head_is_left_as_it_is(made: Installation) -> None:
    with made.database.transaction() as session:
        projects.get(session, made.project_id).ls_problem = "labels in Label Studio: unknown here: Tumour"
    untouched: Any = None  # a client whose every use would fail
    assert sync._head_out(_parts(made), untouched, made.project_id) is False
