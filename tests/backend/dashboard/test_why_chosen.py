"""What a tile's page says of the choice that led to it: from the record that the order kept, and from second looks."""

from __future__ import annotations

import re

import pytest

from backend.actions.rank_queue import rank_queue
from backend.actions.tally_labels import tally_labels
from backend.store import masks, predictions, projects, queue, second_looks
from backend.store.tables import QueueEntry
from mpamatch.domain.breakdown import breakdown
from tests.backend.actions.tallied_project import label
from tests.backend.dashboard.test_pages import PROJECT, Visit, plain
from tests.builders import Installation, disc

pytestmark = pytest.mark.database


def _ranked_anew(made: Installation, **changes: object) -> None:
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.change_policy(session, project, changes, actor="test")
        project.ranked_model_id = None
    assert rank_queue(made.database, made.project_id)


def _entry(made: Installation, tile_id: int) -> QueueEntry:
    with made.database.transaction() as session:
        found = queue.asked(session, projects.get(session, made.project_id), tile_id)
    assert found is not None
    return found


def _look_twice(made: Installation, tile_id: int, bald: float) -> None:
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        found = predictions.of(session, tile_id, champion.id)
        assert found is not None
        second_looks.keep(session, found.id, [bald])


def test_a_score_is_taken_apart_with_bald_where_somebody_looked_twice(visit: Visit, made: Installation) -> None:
    looked, once = made.tiles("train")[5].id, made.tiles("train")[6].id
    _look_twice(made, looked, 0.08)
    _ranked_anew(made)
    client = visit(made.folder)
    for tile_id, uncertainty in (
        (looked, "Uncertainty BALD, at a second look 0.080 0.50 0.4 0.200"),
        (once, "Uncertainty mean entropy 0.500 0.50 0.4 0.200"),
    ):
        entry = _entry(made, tile_id)
        text = plain(client.get(f"{PROJECT}/tiles/{tile_id}").text)
        assert uncertainty in text
        assert "Impurity how predicted classes mix 0.300 0.30 0.2 0.060" in text
        assert "Novelty how unlike anything labelled – 0.00 0.2 0.000" in text
        assert f"That is the score, {entry.score:.3f}." in text
        assert f"Score {entry.score:.3f}, its best region" in text
        assert f"Expected {round(entry.clicks)} clicks, {round(entry.seconds)} s for its best region" in text
    words = plain(client.get(f"{PROJECT}/tiles/{looked}").text)
    assert "Disagreement BALD 1 gland" in words
    assert "400 0.60 0.50 0.20 0.30 0.00 0.080" in words
    assert "BALD" not in plain(client.get(f"{PROJECT}/tiles/{once}").text)


def test_another_strategy_shows_its_figures_and_no_sum(visit: Visit, made: Installation) -> None:
    _ranked_anew(made, strategy="entropy")
    text = plain(visit(made.folder).get(f"{PROJECT}/tiles/{made.tiles('train')[6].id}").text)
    assert "Figures of its best region" in text
    assert "Uncertainty mean entropy 0.500 0.50 Impurity" in text
    assert "That is the score" not in text
    assert "strategy entropy" in text


def test_a_tile_that_was_answered_still_tells_why_it_was_asked_for(visit: Visit, made: Installation) -> None:
    tile = made.tiles("train")[8]
    before = _entry(made, tile.id)
    with made.database.transaction() as session:
        queue.set_state(session, projects.get(session, made.project_id), [tile.id], "done")
    label(made, tile, disc(radius=9), annotator=3, seconds=17.0)
    tally_labels(made.database, made.blobs, made.project_id, limit=100)
    for tau in (0.9, 0.8, 0.7):
        _ranked_anew(made, tau=tau)
    after = _entry(made, tile.id)
    assert (after.id, after.generation, made.project().queue_generation) == (before.id, 1, 4)
    text = plain(visit(made.folder).get(f"{PROJECT}/tiles/{tile.id}").text)
    assert re.search(rf"Rank {before.rank} of order 1 annotated It stands in the present order no more", text)
    assert f"That is the score, {before.score:.3f}." in text
    assert breakdown(before.record) == breakdown(after.record)
    clicks = re.search(r"annotator 3 present 17 s (\d+) nothing", text)
    assert clicks is not None
    assert 4 < int(clicks[1]) < 9  # a disc of 9 px is outlined with one click and 57 px


def test_a_tile_that_waits_again_is_told_by_the_present_order(visit: Visit, made: Installation) -> None:
    tile = made.tiles("train")[8].id
    with made.database.transaction() as session:
        queue.set_state(session, projects.get(session, made.project_id), [tile], "done")
        mask = masks.append(session, tile_id=tile, origin="annotated", blob=made.blobs.put(b"x"), reviewed_share=1.0)
    _ranked_anew(made, tau=0.9)
    assert _entry(made, tile).generation == 1
    with made.database.transaction() as session:
        session.delete(session.merge(mask))
    _ranked_anew(made, tau=0.8)
    assert _entry(made, tile).generation == 3
    assert "stands in the present order no more" not in visit(made.folder).get(f"{PROJECT}/tiles/{tile}").text


def test_an_audit_tile_has_no_figures(visit: Visit, made: Installation) -> None:
    text = visit(made.folder).get(f"{PROJECT}/tiles/{made.tiles('audit')[1].id}").text
    assert "Table of figures" not in text
    assert "Expected" not in text
