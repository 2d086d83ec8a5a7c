"""The order written out piece by piece: all of one generation, or a word that it is not."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from sqlalchemy import delete, update

from backend.actions import export_queue
from backend.actions.export_queue import begin_export, image_exports, written
from backend.actions.rank_queue import rank_queue
from backend.store import projects, queue
from backend.store.tables import Annotation, QueueEntry
from mpamatch.errors import Conflict
from tests.backend.actions.tallied_project import label
from tests.builders import Installation, disc, installation, predict_all

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """A ranked queue of nine tiles, written out in pieces of two."""
    monkeypatch.setattr(export_queue, "_PIECE", 2)
    made = installation(database_url, tmp_path / "state", train=7, audit=2)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    rank_queue(made.database, made.project_id)
    return made


def rank_anew(made: Installation) -> None:
    with made.database.transaction() as session:
        projects.get(session, made.project_id).ranked_model_id = None
    assert rank_queue(made.database, made.project_id)


def test_pieces_are_one_document_also_when_a_new_order_comes_in_between(made: Installation) -> None:
    pieces = written(made.database, begin_export(made.database, made.project_id), "csv")
    first = [next(pieces), next(pieces)]
    rank_anew(made)
    text = b"".join([*first, *pieces]).decode()
    assert [int(line["rank"]) for line in csv.DictReader(io.StringIO(text, newline=""))] == list(range(1, 10))


@pytest.mark.parametrize("every_state", [False, True])
def test_who_is_slower_than_the_orders_are_kept_is_told(made: Installation, every_state: bool) -> None:
    begun = begin_export(made.database, made.project_id, every_state=every_state)
    pieces = written(made.database, begun, "csv")
    next(pieces), next(pieces)
    rank_anew(made)
    with made.database.transaction() as session:  # what waited in it goes; what was answered may stay
        session.execute(delete(QueueEntry).where(QueueEntry.generation == begun.generation))
    with pytest.raises(Conflict, match="ranked anew"):
        list(pieces)


def test_what_was_answered_in_earlier_orders_follows_the_live_one(made: Installation) -> None:
    first, second, third = made.tiles("train")[:3]
    for tile, state in ((first, "present"), (second, "skipped"), (third, "present")):
        label(made, tile, disc(), state=state)
        with made.database.transaction() as session:
            project = projects.get(session, made.project_id)
            queue.set_state(session, project, [tile.id], "skipped" if state == "skipped" else "done")
        rank_anew(made)
    begun = begin_export(made.database, made.project_id, every_state=True)
    lines = list(csv.DictReader(io.StringIO(b"".join(written(made.database, begun, "csv")).decode(), newline="")))
    assert [(int(line["tile_id"]), line["state"]) for line in lines[6:]] == [
        (third.id, "done"),
        (second.id, "skipped"),
        (first.id, "done"),
    ]
    assert {line["state"] for line in lines[:6]} == {"open"}
    documents = dict(image_exports(made.database, begun))
    assert len(documents) == 9
    with made.database.transaction() as session:  # its answer is taken back, and no new order came yet
        session.execute(update(Annotation).where(Annotation.tile_id == first.id).values(state="deleted"))
    begun = begin_export(made.database, made.project_id, every_state=True)
    assert first.id not in [tile.tile_id for piece in export_queue._pieces(made.database, begun) for tile in piece]


def test_each_image_is_a_document_of_its_own(made: Installation) -> None:
    begun = begin_export(made.database, made.project_id)
    documents = {
        name: json.loads(b"".join(written(made.database, one, "geojson")))
        for name, one in image_exports(made.database, begun)
    }
    assert sorted(documents) == [f"image-{n}" for n in range(9)]
    for name, document in documents.items():
        assert document["image"]["name"] == name
        assert [f["properties"]["metadata"]["image"] for f in document["features"]] == [name]
    whole = json.loads(b"".join(written(made.database, begun, "geojson")))
    assert len(whole["features"]) == 9
    assert "image" not in whole
