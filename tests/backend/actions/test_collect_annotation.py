from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from backend.actions import show_tile
from backend.actions.adopt_task import adopt_task
from backend.actions.collect_annotation import collect_task, mark_removed
from backend.actions.rank_queue import rank_queue
from backend.labelstudio.results import class_map_to_result, scope_item
from backend.store import leases, masks, predictions, projects, queue
from backend.store.tables import Annotation, Event, Mask, Task, Tile
from mpamatch.domain.classes import ClassSet
from mpamatch.files.rasters import decode_raster
from tests.builders import Installation, add_model, disc, installation, predict_all

pytestmark = pytest.mark.database
NOW = datetime(2026, 3, 1, tzinfo=UTC)
LS_TASK = 41


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """Six train tiles and four audit tiles, ranked by a trained champion; the first train tile is task 41."""
    made = installation(database_url, tmp_path)
    model = add_model(made, "m1")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        session.get_one(type(model), project.champion_id).state = "retired"
        session.flush()
        session.get_one(type(model), model.id).state = "champion"
        project.champion_id = model.id
        project.ls_model_version = "m1"
    predict_all(made, model)
    assert rank_queue(made.database, made.project_id)
    with made.database.transaction() as session:
        session.add(
            Task(
                project_id=made.project_id,
                tile_id=_tile(made).id,
                ls_task_id=LS_TASK,
                origin="head",
                model_version="m1",
            )
        )
    return made


def _tile(made: Installation) -> Tile:
    return made.tiles("train")[0]


def _annotation(
    made: Installation, class_map: np.ndarray, *, scope: str = "whole tile", number: int = 7, **more: Any
) -> dict[str, Any]:
    with made.database.transaction() as session:
        classes = projects.classes_of(projects.get(session, made.project_id))
    result = [*class_map_to_result(class_map, classes), scope_item(scope)]
    return {
        "id": number,
        "result": result,
        "updated_at": "2026-03-01T10:00:00Z",
        "completed_by": {"id": 3, "email": "a@b.c"},
        "lead_time": 9.5,
        "was_cancelled": False,
        **more,
    }


def _read(made: Installation, *annotations: dict[str, Any]) -> int:
    task = {"id": LS_TASK, "annotations": list(annotations)}
    return collect_task(made.database, made.blobs, made.project_id, task, now=NOW)


def _masks(made: Installation) -> list[Mask]:
    with made.database.transaction() as session:
        return list(session.scalars(select(Mask).order_by(Mask.version)))


def _entry_state(made: Installation) -> str:
    with made.database.transaction() as session:
        return queue.of_tiles(session, projects.get(session, made.project_id), [_tile(made).id])[_tile(made).id].state


def test_a_submitted_label_becomes_one_mask_however_often_it_is_read(made: Installation) -> None:
    label = _annotation(made, disc(x=20))
    assert _read(made, label) == 1
    assert _read(made, label) == 0
    (mask,) = _masks(made)
    assert (decode_raster(made.blobs.get(mask.blob)) == disc(x=20)).all()
    assert (mask.origin, mask.version, mask.reviewed_share) == ("annotated", 1, 1.0)
    assert _entry_state(made) == "done"


def test_the_annotators_address_is_not_kept(made: Installation) -> None:
    _read(made, _annotation(made, disc()))
    with made.database.transaction() as session:
        row = session.scalars(select(Annotation)).one()
    assert (row.annotator, row.lead_time_s, row.shown_version) == (3, 9.5, "m1")
    assert b"a@b.c" not in made.blobs.get(row.result_blob)


def test_a_changed_label_is_the_next_version_and_both_stay(made: Installation) -> None:
    _read(made, _annotation(made, disc(x=20)))
    _read(made, _annotation(made, disc(x=40), updated_at="2026-03-01T11:00:00Z"))
    first, second = _masks(made)
    assert (first.version, second.version) == (1, 2)
    with made.database.transaction() as session:
        (counting,) = masks.current(session, made.project_id)
    assert counting.version == 2


def test_a_late_reading_of_an_older_label_cannot_undo_a_newer_one(made: Installation) -> None:
    old, new = _annotation(made, disc(x=20)), _annotation(made, disc(x=40), number=8, updated_at="2026-03-01T11:00:00Z")
    _read(made, new, old)
    _read(made, old, new)
    with made.database.transaction() as session:
        (counting,) = masks.current(session, made.project_id)
    assert (decode_raster(made.blobs.get(counting.blob)) == disc(x=40)).all()


def test_a_skip_never_trains_and_closes_the_entry(made: Installation) -> None:
    _read(made, _annotation(made, disc(), was_cancelled=True))
    assert _masks(made) == []
    assert _entry_state(made) == "skipped"


def test_a_deleted_label_is_withdrawn_and_its_tile_asked_for_again(made: Installation) -> None:
    _read(made, _annotation(made, disc()))
    assert _read(made) == 1
    (mask,) = _masks(made)
    assert mask.withdrawn_at == NOW
    assert _entry_state(made) == "leased"
    with made.database.transaction() as session:
        assert session.scalars(select(Annotation)).one().state == "deleted"


def test_removing_a_whole_task_keeps_its_label(made: Installation) -> None:
    _read(made, _annotation(made, disc()))
    mark_removed(made.database, made.project_id, [LS_TASK])
    with made.database.transaction() as session:
        assert len(masks.current(session, made.project_id)) == 1


def test_an_unknown_class_is_kept_and_set_aside_and_never_trains(made: Installation) -> None:
    label = _annotation(made, disc())
    label["result"][0]["value"]["brushlabels"] = ["Tumour"]
    _read(made, label)
    assert _masks(made) == []
    with made.database.transaction() as session:
        row = session.scalars(select(Annotation)).one()
    assert row.state == "quarantined"
    assert row.problem is not None
    assert "Tumour" in row.problem
    assert _entry_state(made) == "done"


def test_only_the_boxes_counts_the_boxes_and_what_was_changed(made: Installation) -> None:
    shown = disc()
    changed = shown.copy()
    changed[:5, :5] = 1
    label = _annotation(made, changed, scope="only the boxes")
    label["result"].append(
        {
            "id": "box",
            "from_name": "review",
            "to_name": "image",
            "type": "rectanglelabels",
            "original_width": 64,
            "original_height": 64,
            "value": {"x": 50, "y": 50, "width": 25, "height": 25, "rotation": 0, "rectanglelabels": ["Review"]},
        }
    )
    _read(made, label)
    (mask,) = _masks(made)
    read = decode_raster(made.blobs.get(mask.blob))
    supervised = np.zeros((64, 64), bool)
    supervised[:5, :5] = True
    supervised[32:48, 32:48] = True
    assert ((read != 255) == supervised).all()
    assert (read[supervised] == changed[supervised]).all()


def test_an_artefact_leaves_the_pool(made: Installation) -> None:
    _read(made, _annotation(made, disc(), scope="artefact"))
    with made.database.transaction() as session:
        assert session.get_one(Tile, _tile(made).id).state == "artefact"
        assert masks.current(session, made.project_id) == []


def test_a_task_that_is_not_ours_is_no_error(made: Installation) -> None:
    assert collect_task(made.database, made.blobs, made.project_id, {"id": 999, "annotations": []}, now=NOW) == 0


@pytest.mark.parametrize("how", ["changed", "deleted", "skipped"])
def test_an_artefact_taken_back_returns_its_tile(made: Installation, how: str) -> None:
    _read(made, _annotation(made, disc(), scope="artefact"))
    later = {"updated_at": "2026-03-01T11:00:00Z"}
    after = {
        "changed": [_annotation(made, disc(), **later)],
        "deleted": [],
        "skipped": [_annotation(made, disc(), was_cancelled=True, **later)],
    }
    _read(made, *after[how])
    with made.database.transaction() as session:
        assert session.get_one(Tile, _tile(made).id).state == "ready"
        assert len(masks.current(session, made.project_id)) == (1 if how == "changed" else 0)


def _tile_state(made: Installation) -> str:
    with made.database.transaction() as session:
        return session.get_one(Tile, _tile(made).id).state


def test_who_skips_and_says_artefact_is_heard_and_teaches_nothing(made: Installation) -> None:
    _read(made, _annotation(made, disc(), scope="artefact", was_cancelled=True))
    assert (_tile_state(made), _entry_state(made), _masks(made)) == ("artefact", "skipped", [])
    _read(made)  # the skip is taken back
    assert (_tile_state(made), _entry_state(made)) == ("ready", "leased")


def test_a_plain_skip_by_another_takes_no_artefact_back(made: Installation) -> None:
    marked = _annotation(made, disc(), scope="artefact")
    skip = _annotation(made, disc(), was_cancelled=True, number=8, updated_at="2026-03-01T11:00:00Z")
    _read(made, marked, skip)
    assert _tile_state(made) == "artefact"
    _read(made, skip)
    assert _tile_state(made) == "ready"


def test_an_artefact_taken_back_leaves_what_another_said_before(made: Installation) -> None:
    drawn = _annotation(made, disc(x=20))
    _read(made, drawn, _annotation(made, disc(), scope="artefact", number=8, updated_at="2026-03-01T11:00:00Z"))
    assert _tile_state(made) == "artefact"
    _read(made, drawn)
    assert _tile_state(made) == "ready"
    with made.database.transaction() as session:
        (counting,) = masks.current(session, made.project_id)
    assert (decode_raster(made.blobs.get(counting.blob)) == disc(x=20)).all()


def test_the_second_annotation_of_a_tile_is_said(made: Installation) -> None:
    first, second = _annotation(made, disc(x=20)), _annotation(made, disc(x=40), number=8)
    _read(made, first)
    _read(made, first, second)
    with made.database.transaction() as session:
        rows = {a.ls_annotation_id: a.id for a in session.scalars(select(Annotation))}
        told = {e.subject: e.after["beside"] for e in session.scalars(select(Event)) if e.what == "annotation present"}
    assert told == {f"annotation:{rows[7]}": [], f"annotation:{rows[8]}": [rows[7]]}


def test_a_task_that_turns_up_again_does_not_take_the_tile_from_who_holds_it(made: Installation) -> None:
    tile = made.tiles("train")[1]
    with made.database.transaction() as session:
        queue.set_state(session, projects.get(session, made.project_id), [tile.id], "open")
        entries = leases.claim(session, made.project_id, holder="a", count=50, now=NOW, lease_s=60)
    assert tile.id in [e.tile_id for e in entries]
    data = {"image": show_tile.link(made.keys, "http://127.0.0.1:9", tile.id, NOW), "tile_id": tile.id}
    assert not adopt_task(made.database, made.project_id, {"id": 77, "data": data})
    labelled = {"id": 77, "data": data, "annotations": [_annotation(made, disc())]}
    assert adopt_task(made.database, made.project_id, labelled), "a label is never left out"
    assert collect_task(made.database, made.blobs, made.project_id, labelled, now=NOW) == 1


def test_a_lost_raster_of_ours_costs_no_label(made: Installation) -> None:
    with made.database.transaction() as session:
        shown = predictions.by_version(session, made.project_id, "m1", [_tile(made).id])[_tile(made).id]
    made.blobs.path(shown.class_blob).unlink()
    _read(made, _annotation(made, disc(x=20)))
    assert len(_masks(made)) == 1


def test_a_task_whose_import_was_never_written_down_is_adopted_with_its_label(made: Installation) -> None:
    tile = made.tiles("train")[1]
    link = show_tile.link(made.keys, "http://127.0.0.1:1", tile.id, NOW)
    task = {"id": 77, "data": {"image": link, "tile_id": tile.id}, "annotations": [_annotation(made, disc())]}
    assert adopt_task(made.database, made.project_id, task)
    assert not adopt_task(made.database, made.project_id, task)
    assert collect_task(made.database, made.blobs, made.project_id, task, now=NOW) == 1
    assert len(_masks(made)) == 1


def test_a_tile_id_that_somebody_else_wrote_is_not_ours(made: Installation) -> None:
    tile = made.tiles("train")[1]
    for data in ({"image": "/data/upload/1/a.png", "tile_id": tile.id}, {"tile_id": tile.id}, None, {"tile_id": True}):
        assert not adopt_task(made.database, made.project_id, {"id": 77, "data": data})


def test_what_was_set_aside_is_read_again_once_its_class_is_known(made: Installation) -> None:
    label = _annotation(made, disc(x=20))
    for item in label["result"]:
        if "brushlabels" in item["value"]:
            item["value"]["brushlabels"] = ["Tumour"]
    assert _read(made, label) == 1
    assert _read(made, label) == 0  # it is still unknown, and nothing is noted twice
    assert _masks(made) == []
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.classes = ClassSet.from_names(["background", "Tumour"]).to_json()
    assert _read(made, label) == 1
    assert [m.origin for m in _masks(made)] == ["annotated"]


def test_a_label_on_another_tile_under_a_number_that_came_again_is_not_the_rows_tiles(made: Installation) -> None:
    other = made.tiles("train")[1]
    data = {"image": show_tile.link(made.keys, "http://127.0.0.1:9", other.id, NOW), "tile_id": other.id}
    task = {"id": LS_TASK, "data": data, "annotations": [_annotation(made, disc(x=20))]}
    assert collect_task(made.database, made.blobs, made.project_id, task, now=NOW) == 0
    assert _masks(made) == []
    assert adopt_task(made.database, made.project_id, task)
    assert collect_task(made.database, made.blobs, made.project_id, task, now=NOW) == 1
    assert [mask.tile_id for mask in _masks(made)] == [other.id]
    assert _entry_state(made) == "open", "the tile of the task before may be asked for again"
