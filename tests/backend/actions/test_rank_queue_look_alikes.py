"""A tile marked as an artefact moves its look-alikes to the end of the order, and taking the mark back undoes it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from backend.actions.answer_tile import Answer, answer_tile, take_back
from backend.actions.rank_queue import rank_queue
from backend.actions.read_embeddings import ModelEmbeddings
from backend.actions.see_ring import see_ring
from backend.store import leases, predictions, projects, queue
from backend.store.tables import Event, Model, QueueEntry, Task, Tile
from mpamatch.domain.record import recompute
from mpamatch.files.embeddings import encode_embeddings
from mpamatch.files.masks import write_mask
from tests.builders import Installation, add_model, disc, installation, predict_all

pytestmark = pytest.mark.database
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """Nine train tiles and three audit tiles of a trained champion, each with a look of its own; its order is made."""
    made = installation(database_url, tmp_path / "state", train=9, audit=3)
    serve(made, "m1")
    look(made)
    assert rank(made)
    return made


def rank(made: Installation) -> bool:
    return rank_queue(made.database, made.project_id, blobs=made.blobs)


def serve(made: Installation, version: str) -> None:
    model = add_model(made, version)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.champion(session, project).state = "retired"
        session.flush()
        session.get_one(Model, model.id).state = "champion"
        project.champion_id = model.id
    predict_all(made, model)


def look(made: Installation, like: Mapping[int, int] | None = None) -> None:
    """What the champion's embeddings say: each tile and its region look their own way, but for those that are ``like``
    another one."""
    numbers = {tile.id: place for place, tile in enumerate(made.tiles())}
    own = np.eye(2 * len(numbers))
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id)).id
        for tile, place in numbers.items():
            shown = numbers[(like or {}).get(tile, tile)]
            rows = own[[shown, len(numbers) + place]]
            prediction = predictions.of(session, tile, champion)
            assert prediction is not None
            prediction.embeddings_blob = made.blobs.put(encode_embeddings(rows))


def order(made: Installation) -> list[QueueEntry]:
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        rows = session.scalars(
            select(QueueEntry)
            .where(QueueEntry.project_id == project.id, QueueEntry.generation == project.queue_generation)
            .order_by(QueueEntry.rank)
        )
        return list(rows)


def submit(made: Installation, tile_id: int, answer: Answer) -> int:
    """Whoever holds the tile says it; the others are given back."""
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        for row in leases.claim(session, project.id, holder="a", count=50, now=NOW, lease_s=60):
            if row.tile_id == tile_id:
                say = {"holder": "a", "attempt": row.attempt, "now": NOW}
                number = answer_tile(session, made.blobs, project, tile_id, answer, **say).id
            else:
                leases.release(session, project.id, row.tile_id, holder="a", attempt=row.attempt, now=NOW)
    return number


def train_order(made: Installation) -> list[int]:
    return [e.tile_id for e in order(made) if e.stratum != "audit"]


def test_the_look_alikes_of_an_artefact_go_to_the_end_and_say_so(made: Installation) -> None:
    before = order(made)
    first, second, *_ = train_order(made)
    look(made, like={second: first})
    submit(made, first, Answer("artefact"))
    assert rank(made)
    after = order(made)
    assert train_order(made)[-1] == second
    assert set(train_order(made)) == {e.tile_id for e in before if e.stratum != "audit"} - {first}
    assert [e.rank for e in after] == list(range(1, len(before)))
    sunk = next(e for e in after if e.tile_id == second)
    assert (sunk.like_tile_id, sunk.state) == (first, "open")
    assert sunk.like_cosine == pytest.approx(1.0)
    assert sunk.reasons[0].startswith(f"at the end: looks like tile {first}, which was marked as an artefact")
    assert recompute(sunk.record) == pytest.approx(sunk.score), "its place is another; its score is not"
    assert all(e.like_tile_id is None for e in after if e.tile_id != second)
    audit = [(e.tile_id, e.rank) for e in before if e.stratum == "audit"]
    assert [(e.tile_id, e.rank) for e in after if e.stratum == "audit" and e.rank < len(after)] == audit[:-1]
    with made.database.transaction() as session:
        told = session.scalars(select(Event).where(Event.what == "queue ranked").order_by(Event.id.desc())).first()
    assert told is not None
    assert told.after is not None
    assert told.after["sunk"] == 1


def test_the_same_marks_make_no_new_order_and_a_mark_taken_back_gives_the_old_one(made: Installation) -> None:
    before = train_order(made)
    look(made, like={before[1]: before[0]})
    number = submit(made, before[0], Answer("artefact"))
    assert rank(made)
    assert not rank(made)
    with made.database.transaction() as session:
        take_back(session, made.blobs, projects.get(session, made.project_id), number, actor="a", now=NOW)
    assert rank(made)
    assert train_order(made) == before
    assert all(e.like_tile_id is None for e in order(made))


def test_what_looks_as_much_like_a_label_stays(made: Installation) -> None:
    marked, drawn, alike, *_ = train_order(made)
    look(made, like={drawn: marked, alike: marked})
    submit(made, marked, Answer("artefact"))
    submit(made, drawn, Answer("whole tile", write_mask(disc())))
    assert rank(made)
    assert alike in train_order(made)
    assert all(e.like_tile_id is None for e in order(made))


def test_how_much_alike_is_a_rule_of_the_project(made: Installation) -> None:
    first, second, *_ = train_order(made)
    look(made, like={second: first})
    submit(made, first, Answer("artefact"))
    for cosine, sunk in ((1.0, None), (0.99, first)):
        with made.database.transaction() as session:
            project = projects.get(session, made.project_id)
            projects.change_policy(session, project, {"artefact_cosine": cosine}, actor="test")
        assert rank(made)
        assert next(e for e in order(made) if e.tile_id == second).like_tile_id == sunk


def test_a_new_champion_sees_the_artefact_too_and_its_look_alikes_sink_again(made: Installation) -> None:
    first, second, *_ = train_order(made)
    submit(made, first, Answer("artefact"))
    serve(made, "m2")
    look(made, like={second: first})
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        one = predictions.of(session, first, champion.id)
        assert one is not None
        predictions.forget(session, one.id)
        assert predictions.missing_for(session, made.project_id, champion.id, live_tasks_only=False) == 1
        ring = see_ring(session, projects.get(session, made.project_id), now=NOW)
        assert ring.predicted == ring.tiles == 11
        (due,) = predictions.claim_due(session, now=NOW, holder="w", lease_s=1, limit=5)
        assert (due.tile_id, due.model_id) == (first, champion.id)
    assert not rank(made)  # the order waits for it
    predict_all(made, champion)
    look(made, like={second: first})
    assert rank(made)
    assert train_order(made)[-1] == second


def test_an_audit_tile_moves_nothing_and_is_not_moved(made: Installation) -> None:
    audit, other, *_ = [e.tile_id for e in order(made) if e.stratum == "audit"]
    first, second, *_ = train_order(made)
    look(made, like={second: audit, other: first})
    with made.database.transaction() as session:
        session.get_one(Tile, audit).state = "artefact"
    assert not rank(made)
    submit(made, first, Answer("artefact"))
    assert rank(made)
    after = order(made)
    assert all(e.like_tile_id is None for e in after)
    assert next(e.tile_id for e in after if e.stratum == "audit") == other


def test_without_embeddings_nothing_sinks_and_each_mark_makes_one_order(made: Installation) -> None:
    first, second, *_ = train_order(made)
    look(made, like={second: first})
    submit(made, first, Answer("artefact"))
    assert rank_queue(made.database, made.project_id)
    assert first not in train_order(made)
    assert all(e.like_tile_id is None for e in order(made))
    assert not rank_queue(made.database, made.project_id)


def test_embeddings_of_another_size_hold_up_no_order(made: Installation) -> None:
    first, second, third, *_ = train_order(made)
    look(made, like={second: first, third: first})
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        prediction = predictions.of(session, second, champion.id)
        assert prediction is not None
        prediction.embeddings_blob = made.blobs.put(encode_embeddings(np.ones((2, 3))))
    submit(made, first, Answer("artefact"))
    assert rank(made)
    assert [e.tile_id for e in order(made) if e.like_tile_id is not None] == [third]


def test_a_tile_shown_in_label_studio_sinks_and_stays_there_until_the_head_is_mended(made: Installation) -> None:
    first, second, *_ = train_order(made)
    look(made, like={second: first})
    submit(made, first, Answer("artefact"))
    with made.database.transaction() as session:
        queue.reserve(session, made.project_id, [second])
        session.add(Task(project_id=made.project_id, tile_id=second, ls_task_id=5, origin="head"))
    assert rank(made)
    assert train_order(made)[-1] == second
    assert next(e for e in order(made) if e.tile_id == second).lease_holder == queue.IN_LABEL_STUDIO


def test_rows_of_whole_tiles_are_read_once_however_they_are_asked_for(
    made: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id)).id
    read: list[str] = []
    get = made.blobs.get
    monkeypatch.setattr(made.blobs, "get", lambda digest: (read.append(digest), get(digest))[1])
    tiles = np.array([tile.id for tile in made.tiles()] + [10**6])
    seen = ModelEmbeddings(made.database, made.blobs, champion)
    whole = seen.of_whole_tiles(tiles[:3])
    assert (len(read), whole.starts.tolist()) == (3, [0, 1, 2, 3])
    both = seen.of_tiles(tiles[2:])
    again = seen.of_whole_tiles(tiles)
    assert len(read) == 3 + len(tiles) - 3
    assert again.starts.tolist() == [*range(len(tiles)), len(tiles) - 1], "the last one has never been seen"
    assert (again.vectors[:3] == whole.vectors).all()
    assert (again.vectors[2:] == both.vectors[both.starts[:-2]]).all()
