"""Answers to what the queue handed out: what counts, what comes too late and is kept, and what an operator makes of it.

Row 19 of the faults at the queue's own door: nothing that somebody drew is lost, and nothing late changes anything.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from backend.actions import rank_queue as rank_queue_module
from backend.actions.answer_tile import Answer, answer_tile, drafts, leave_out, take_back, use_draft
from backend.actions.rank_queue import rank_queue
from backend.store import leases, masks, projects, queue
from backend.store.tables import Annotation, Event, Mask, QueueEntry, Tile
from mpamatch.errors import BadInput, Conflict, NotFound
from mpamatch.files.masks import write_mask
from mpamatch.files.rasters import decode_raster, encode_raster
from tests.builders import Installation, add_images, disc, installation, predict_all
from tests.builders import add_model as model_row
from tests.reliability.fault_log import FaultLog

pytestmark = pytest.mark.database
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE_S = 60.0
LATER = NOW + timedelta(seconds=LEASE_S + 1)
WHOLE = Answer("whole tile", write_mask(disc(x=20)), seconds=12.5)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """Six train tiles and two audit tiles, ranked by a trained champion whose regions are boxes of 10..30 px."""
    made = installation(database_url, tmp_path / "state", train=6, audit=2)
    model = model_row(made, "m1")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        session.get_one(type(model), project.champion_id).state = "retired"
        session.flush()
        session.get_one(type(model), model.id).state = "champion"
        project.champion_id = model.id
    predict_all(made, model)
    rank_queue(made.database, made.project_id)
    return made


def claim(made: Installation, holder: str, *, now: datetime = NOW) -> QueueEntry:
    with made.database.transaction() as session:
        return leases.claim(session, made.project_id, holder=holder, count=1, now=now, lease_s=LEASE_S)[0]


def say(
    made: Installation, tile_id: int, answer: Answer, *, holder: str = "a", attempt: int = 1, now: datetime = NOW
) -> Annotation:
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        return answer_tile(session, made.blobs, project, tile_id, answer, holder=holder, attempt=attempt, now=now)


def entry(made: Installation, tile_id: int) -> QueueEntry:
    with made.database.transaction() as session:
        return queue.of_tiles(session, projects.get(session, made.project_id), [tile_id])[tile_id]


def counting(made: Installation, tile_id: int) -> tuple[Mask, np.ndarray] | None:
    with made.database.transaction() as session:
        mask = masks.newest_counting(session, tile_id)
    return None if mask is None else (mask, decode_raster(made.blobs.get(mask.blob)))


def waiting_drafts(made: Installation) -> list[int]:
    with made.database.transaction() as session:
        return [row.id for row in drafts(session, projects.get(session, made.project_id))]


def test_an_answer_in_time_is_a_label_like_any_other(made: Installation) -> None:
    held = claim(made, "a")
    row = say(made, held.tile_id, WHOLE)
    assert (row.state, row.holder, row.scope, row.lead_time_s, row.problem) == (
        "present",
        "a",
        "whole tile",
        12.5,
        None,
    )
    mask, drawn = counting(made, held.tile_id)
    assert (drawn == disc(x=20)).all()
    assert (mask.origin, mask.reviewed_share, mask.annotation_id) == ("annotated", 1.0, row.id)
    assert (entry(made, held.tile_id).state, entry(made, held.tile_id).lease_holder) == ("done", None)
    with made.database.transaction() as session:
        assert [m.tile_id for m in masks.current(session, made.project_id)] == [held.tile_id]
        told = session.scalars(select(Event).where(Event.subject == f"annotation:{row.id}")).one()
    assert (told.actor, told.what) == ("a", "annotation present")


def test_what_is_255_was_not_looked_at(made: Installation) -> None:
    held = claim(made, "a")
    drawn = disc(x=20)
    drawn[:, 40:] = 255
    say(made, held.tile_id, Answer("whole tile", encode_raster(drawn)))
    mask, read = counting(made, held.tile_id)
    assert (read == drawn).all()
    assert mask.reviewed_share == 40 / 64


def test_only_the_boxes_counts_the_lease_s_regions_and_what_was_changed(made: Installation) -> None:
    held = claim(made, "a")
    changed = disc()
    changed[60:, 60:] = 1
    say(made, held.tile_id, Answer("only the boxes", write_mask(changed), shown_version="m1"))
    _, read = counting(made, held.tile_id)
    supervised = np.zeros((64, 64), bool)
    supervised[10:30, 10:30] = True  # the region's box
    supervised[60:, 60:] = True
    assert ((read != 255) == supervised).all()
    assert (read[supervised] == changed[supervised]).all()


def test_a_suggestion_sent_back_as_it_was_is_confirmed(made: Installation) -> None:
    held, other = claim(made, "a"), claim(made, "a")
    say(made, held.tile_id, Answer("whole tile", write_mask(disc()), shown_version="m1"))
    say(made, other.tile_id, Answer("whole tile", write_mask(disc())))
    assert counting(made, held.tile_id)[0].origin == "confirmed"
    assert counting(made, held.tile_id)[0].prediction_id is not None
    assert counting(made, other.tile_id)[0].origin == "annotated"  # drawn from nothing


def test_an_artefact_leaves_the_pool_and_cannot_tell_teaches_nothing(made: Installation) -> None:
    one, other = claim(made, "a"), claim(made, "a")
    say(made, one.tile_id, Answer("artefact"))
    say(made, other.tile_id, Answer("cannot tell"))
    with made.database.transaction() as session:
        assert session.get_one(Tile, one.tile_id).state == "artefact"
        assert session.get_one(Tile, other.tile_id).state == "ready"
        assert masks.current(session, made.project_id) == []
    assert {entry(made, e.tile_id).state for e in (one, other)} == {"done"}


def test_left_out_with_a_reason_is_an_answer_that_a_new_order_knows(made: Installation) -> None:
    held = claim(made, "a")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        leave_out(session, made.blobs, project, held.tile_id, holder="a", attempt=1, reason="out of focus", now=NOW)
    with made.database.transaction() as session:
        row = session.scalars(select(Annotation)).one()
    assert (row.state, row.holder) == ("skipped", "a")
    assert b"out of focus" in made.blobs.get(row.result_blob)
    add_images(made, train=1, audit=0, masked=False, first=50)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    assert rank_queue(made.database, made.project_id)
    with made.database.transaction() as session:
        assert held.tile_id not in queue.of_tiles(session, projects.get(session, made.project_id), [held.tile_id])


def test_what_was_left_out_while_an_order_was_made_is_left_out_in_it(
    made: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = claim(made, "a")
    ranked = rank_queue_module._ranked

    def meanwhile(*facts: Any) -> Any:
        with made.database.transaction() as session:
            project = projects.get(session, made.project_id)
            leave_out(session, made.blobs, project, held.tile_id, holder="a", attempt=1, reason="torn", now=NOW)
        return ranked(*facts)

    monkeypatch.setattr(rank_queue_module, "_ranked", meanwhile)
    with made.database.transaction() as session:
        projects.get(session, made.project_id).ranked_model_id = None
    assert rank_queue(made.database, made.project_id)
    assert (entry(made, held.tile_id).state, entry(made, held.tile_id).skip_reason) == ("skipped", "torn")


def test_an_answer_after_the_time_counts_while_nobody_else_has_the_tile(made: Installation) -> None:
    held = claim(made, "a")
    assert say(made, held.tile_id, WHOLE, now=LATER).state == "present"
    other = claim(made, "a")
    with made.database.transaction() as session:
        leases.end_expired(session, now=LATER)
    assert say(made, other.tile_id, WHOLE, now=LATER).state == "present"


def _somebody_takes_it(made: Installation, tile_id: int) -> None:
    assert claim(made, "b", now=LATER).tile_id == tile_id


def _somebody_labels_it(made: Installation, tile_id: int) -> None:
    _somebody_takes_it(made, tile_id)
    say(made, tile_id, Answer("whole tile", write_mask(disc(x=50))), holder="b", attempt=2, now=LATER)


def _label_studio_shows_it(made: Installation, tile_id: int) -> None:
    with made.database.transaction() as session:
        leases.end_expired(session, now=LATER)
        assert queue.reserve(session, made.project_id, [tile_id]) == {tile_id}


def _somebody_leaves_it_out(made: Installation, tile_id: int) -> None:
    _somebody_takes_it(made, tile_id)
    with made.database.transaction() as session:
        leases.skip(session, made.project_id, tile_id, holder="b", attempt=2, reason="torn", now=LATER)


def _it_is_ranked_away(made: Installation, tile_id: int) -> None:
    """A mask for it is imported, and the order is made anew."""
    with made.database.transaction() as session:
        blob = made.blobs.put(encode_raster(disc(x=50)))
        masks.append(session, tile_id=tile_id, origin="imported", blob=blob, reviewed_share=1.0)
        projects.get(session, made.project_id).ranked_model_id = None
    assert rank_queue(made.database, made.project_id)
    with made.database.transaction() as session:
        assert not queue.of_tiles(session, projects.get(session, made.project_id), [tile_id])


LATE = {
    "held under another lease": _somebody_takes_it,
    "annotated meanwhile": _somebody_labels_it,
    "shown in Label Studio": _label_studio_shows_it,
    "left out meanwhile": _somebody_leaves_it_out,
    "not in the queue any more": _it_is_ranked_away,
}


@pytest.mark.parametrize("why", LATE)
def test_an_answer_that_comes_too_late_is_kept_as_a_draft_and_changes_nothing(
    made: Installation, log: FaultLog, why: str
) -> None:
    held = claim(made, "a")
    LATE[why](made, held.tile_id)
    before = counting(made, held.tile_id)
    row = say(made, held.tile_id, WHOLE, now=LATER)
    assert row.state == "draft"
    assert why in str(row.problem)
    after = counting(made, held.tile_id)
    assert (before is None) == (after is None)
    assert before is None or before[0].id == after[0].id
    assert Answer.from_bytes(made.blobs.get(row.result_blob)) == WHOLE  # word for word
    assert waiting_drafts(made) == [row.id]
    assert say(made, held.tile_id, WHOLE, now=LATER).id == row.id  # sent twice, kept once
    log.recovered(row=19, fault=f"an answer comes when its tile is {why}", seen="kept as a draft; nothing changed")


def test_an_answer_sent_twice_is_one_label(made: Installation) -> None:
    held = claim(made, "a")
    assert say(made, held.tile_id, WHOLE).id == say(made, held.tile_id, WHOLE, now=LATER).id
    with made.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Mask)) == 1


def test_who_never_had_the_tile_has_a_draft_at_most(made: Installation) -> None:
    free = made.tiles("train")[0].id
    assert say(made, free, WHOLE, attempt=1).state == "draft"
    held = claim(made, "a")
    assert say(made, held.tile_id, WHOLE, holder="b", attempt=1).state == "draft"
    assert entry(made, held.tile_id).lease_holder == "a"
    with made.database.transaction() as session:
        leases.release(session, made.project_id, held.tile_id, holder="a", attempt=1, now=NOW)
    assert say(made, held.tile_id, Answer("artefact"), holder="b", attempt=1).state == "draft"
    assert entry(made, held.tile_id).state == "open"


@pytest.mark.parametrize("how", ["given back", "ran out", "ran out, and nobody looked"])
def test_an_old_attempt_counts_for_the_last_one_who_had_the_tile_and_nobody_else(made: Installation, how: str) -> None:
    mine = claim(made, "a")
    theirs = claim(made, "b", now=LATER)
    assert theirs.tile_id == mine.tile_id
    later = LATER + timedelta(seconds=LEASE_S + 1)
    with made.database.transaction() as session:
        if how == "given back":
            leases.release(session, made.project_id, mine.tile_id, holder="b", attempt=2, now=LATER)
        elif how == "ran out":
            leases.end_expired(session, now=later)
    late = say(made, mine.tile_id, WHOLE, now=later)
    assert (late.state, "held last" in str(late.problem)) == ("draft", True)
    assert say(made, mine.tile_id, WHOLE, holder="b", attempt=2, now=later).state == "present"


def test_a_new_order_keeps_who_had_a_tile_last(made: Installation) -> None:
    mine = claim(made, "a")
    with made.database.transaction() as session:
        leases.release(session, made.project_id, mine.tile_id, holder="a", attempt=1, now=NOW)
        projects.get(session, made.project_id).ranked_model_id = None
    assert rank_queue(made.database, made.project_id)
    assert say(made, mine.tile_id, WHOLE, holder="b", attempt=1).state == "draft"
    assert say(made, mine.tile_id, WHOLE, attempt=1).state == "present"


def test_a_draft_counts_once_an_operator_says_so(made: Installation) -> None:
    held = claim(made, "a")
    _somebody_labels_it(made, held.tile_id)
    late = say(made, held.tile_id, WHOLE, now=LATER)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        assert use_draft(session, made.blobs, project, late.id, actor="operator", now=LATER).state == "present"
    mask, drawn = counting(made, held.tile_id)
    assert (drawn == disc(x=20)).all()
    assert (mask.version, mask.annotation_id) == (2, late.id)
    assert waiting_drafts(made) == []
    with pytest.raises(Conflict, match="present already"), made.database.transaction() as session:
        use_draft(session, made.blobs, projects.get(session, made.project_id), late.id, actor="operator", now=LATER)


def test_a_draft_that_counts_is_the_newest_word_on_what_the_tile_is(made: Installation) -> None:
    held = claim(made, "a")
    _somebody_takes_it(made, held.tile_id)
    late = say(made, held.tile_id, Answer("artefact"), now=LATER)
    after = LATER + timedelta(seconds=1)
    say(made, held.tile_id, Answer("whole tile", write_mask(disc(x=50))), holder="b", attempt=2, now=after)
    with made.database.transaction() as session:
        assert session.get_one(Tile, held.tile_id).state == "ready"
        project = projects.get(session, made.project_id)
        use_draft(session, made.blobs, project, late.id, actor="operator", now=after + timedelta(seconds=1))
    with made.database.transaction() as session:
        assert session.get_one(Tile, held.tile_id).state == "artefact"


def test_a_draft_waits_while_somebody_is_at_work_on_its_tile(made: Installation) -> None:
    held = claim(made, "a")
    _somebody_takes_it(made, held.tile_id)
    late = say(made, held.tile_id, WHOLE, now=LATER)
    with pytest.raises(Conflict, match="with somebody"), made.database.transaction() as session:
        use_draft(session, made.blobs, projects.get(session, made.project_id), late.id, actor="operator", now=LATER)
    for unknown in (late.id + 1, 1 << 70, -1):
        with pytest.raises(NotFound), made.database.transaction() as session:
            use_draft(session, made.blobs, projects.get(session, made.project_id), unknown, actor="operator", now=LATER)


def _bad_masks() -> dict[str, bytes | None]:
    return {
        "is missing": None,
        "no PNG": b"\x89PNG\r\n\x1a\n",
        "has 10 x 10 px": encode_raster(np.zeros((10, 10), np.uint8)),
        "class id 7": encode_raster(np.full((64, 64), 7, np.uint8)),
        "says nothing": encode_raster(np.full((64, 64), 255, np.uint8)),
    }


@pytest.mark.parametrize("problem", _bad_masks())
def test_a_mask_that_cannot_be_read_is_refused_and_the_tile_stays_held(made: Installation, problem: str) -> None:
    held = claim(made, "a")
    with pytest.raises(BadInput, match=problem):
        say(made, held.tile_id, Answer("whole tile", _bad_masks()[problem]))
    assert entry(made, held.tile_id).lease_holder == "a"
    with made.database.transaction() as session:
        assert session.scalars(select(Annotation)).all() == []


def test_a_version_that_was_never_shown_is_refused(made: Installation) -> None:
    held = claim(made, "a")
    with pytest.raises(BadInput, match="was not shown"):
        say(made, held.tile_id, Answer("whole tile", write_mask(disc()), shown_version="m99"))


@pytest.mark.parametrize("scope", ["whole tile", "artefact"])
def test_an_answer_taken_back_counts_no_more_and_its_tile_is_asked_for_again(made: Installation, scope: str) -> None:
    held = claim(made, "a")
    row = say(made, held.tile_id, WHOLE if scope == "whole tile" else Answer("artefact"))
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        assert take_back(session, made.blobs, project, row.id, actor="a", now=LATER).state == "deleted"
    with made.database.transaction() as session:
        assert masks.current(session, made.project_id) == []
        assert session.get_one(Tile, held.tile_id).state == "ready"
    assert claim(made, "b", now=LATER).tile_id == held.tile_id
    with pytest.raises(Conflict, match="before"), made.database.transaction() as session:
        take_back(session, made.blobs, projects.get(session, made.project_id), row.id, actor="a", now=LATER)


def test_a_tile_that_another_one_labelled_stays_labelled_when_the_first_takes_his_answer_back(
    made: Installation,
) -> None:
    held = claim(made, "a")
    _somebody_labels_it(made, held.tile_id)
    late = say(made, held.tile_id, WHOLE, now=LATER)
    with made.database.transaction() as session:
        take_back(session, made.blobs, projects.get(session, made.project_id), late.id, actor="a", now=LATER)
    assert entry(made, held.tile_id).state == "done"
    assert (counting(made, held.tile_id)[1] == disc(x=50)).all()
    assert waiting_drafts(made) == []
