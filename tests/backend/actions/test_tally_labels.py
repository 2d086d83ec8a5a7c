from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from backend.actions.combine_answers import add_answer
from backend.actions.fit_costs import COUNTED_BY, fitted_costs
from backend.actions.see_agreement import see_agreement
from backend.actions.tally_labels import CHAMPIONS, subjects, tally_labels, waiting
from backend.store import masks, predictions, projects, tallies
from backend.store.tables import Agreement, Annotation, Effort, Image, Mask, Model, Prediction, Project, Run, Tally
from mpamatch.domain.agreement import compare
from mpamatch.domain.clicks import clicks_to_correct, clicks_to_draw
from mpamatch.domain.cost_fit import LEAST_LABELS
from mpamatch.domain.tallies import tally, unpack
from mpamatch.files.rasters import decode_raster
from tests.backend.actions.tallied_project import judged, label, predict, run_of, shifted
from tests.builders import Installation, disc, installation

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(database_url, tmp_path, train=6, audit=3)


def count_all(made: Installation, limit: int = 100) -> None:
    while tally_labels(made.database, made.blobs, made.project_id, limit=limit):
        pass


def left(made: Installation) -> int:
    with made.database.transaction() as session:
        return waiting(session, subjects(session, projects.get(session, made.project_id)))


def rows(made: Installation, table: type) -> list:
    with made.database.transaction() as session:
        return list(session.scalars(select(table).order_by(table.id)))


def test_champions_are_counted_on_audit_tiles_and_the_present_one_on_tiles_that_it_never_learnt(
    made: Installation,
) -> None:
    train, audit = made.tiles("train"), made.tiles("audit")
    first = judged(made, "m1", run_of(made, 1, held=[train[0].id]))
    second = judged(made, "m2", run_of(made, 2, held=[train[0].id, train[1].id]))
    for model, confidence in ((first, 0.9), (second, 0.98)):
        predict(made, model, [*train, *audit], shifted(2), confidence)
    for tile in (*train, *audit):
        label(made, tile, disc())
    count_all(made)
    found = {(one.mask_id, one.model_id): one for one in rows(made, Tally)}
    masks = {one.tile_id: one.id for one in rows(made, Mask)}
    expected = {(masks[tile.id], model.id) for tile in audit for model in (first, second)}
    expected |= {(masks[train[n].id], second.id) for n in (0, 1)}
    assert set(found) == expected
    counts = unpack(found[(masks[audit[0].id], second.id)].counts, 2)
    assert (counts == tally(shifted(2), np.full((64, 64), 250, np.uint8), disc(), 2)).all()
    count_all(made)
    assert len(rows(made, Tally)) == len(expected)


def test_a_tile_that_an_earlier_run_learnt_from_is_not_held(made: Installation) -> None:
    """The second run kept back what the first one, which it started from, had in its gradient."""
    train = made.tiles("train")
    earlier, later = run_of(made, 1, held=[train[0].id]), run_of(made, 2, held=[train[0].id, train[1].id, train[2].id])
    model = judged(made, "m2", later)
    predict(made, model, train, disc(), 0.9)
    for place, run in ((0, earlier), (1, earlier), (2, later), (3, later)):
        label(made, train[place], disc(), run_id=run)
    with made.database.transaction() as session:
        held = subjects(session, projects.get(session, made.project_id)).held
    assert {one.tile_id for one in held} == {train[0].id, train[2].id}


def test_the_starter_saw_no_label_of_this_project(made: Installation) -> None:
    train = made.tiles("train")
    with made.database.transaction() as session:
        project = session.get_one(Project, made.project_id)
        projects.champion(session, project).kind = "starter"
        starter = projects.champion(session, project)
    predict(made, starter, train, disc(), 0.9)
    label(made, train[4], disc())
    count_all(made)
    assert [one.model_id for one in rows(made, Tally)] == [starter.id]


def test_an_adapted_champion_has_learnt_what_the_one_before_it_had(made: Installation) -> None:
    train = made.tiles("train")
    trained, adapting, later = (
        run_of(made, n, held=held) for n, held in ((1, [train[0].id]), (2, None), (3, [train[0].id, train[1].id]))
    )
    judged(made, "m1", trained)
    model = judged(made, "m2", adapting)
    with made.database.transaction() as session:
        session.get_one(Run, adapting).trigger = "adapt"
        session.get_one(Model, model.id).metrics = {"adapted": {"from": "m1", "images": 5}}
    for place in (0, 1):
        label(made, train[place], disc(), run_id=trained)
    for expected, last in (({train[0].id}, None), ({train[0].id}, later)):
        if last is not None:
            judged(made, "m3", last)
        with made.database.transaction() as session:
            held = subjects(session, projects.get(session, made.project_id)).held
        assert {one.tile_id for one in held} == expected


def test_a_blank_champion_has_nothing_to_count(made: Installation) -> None:
    for tile in made.tiles():
        label(made, tile, disc())
    count_all(made)
    assert rows(made, Tally) == []
    assert len(rows(made, Effort)) == 9


def test_only_the_latest_champions_are_compared(made: Installation) -> None:
    audit = made.tiles("audit")
    models = [judged(made, f"m{n}", run_of(made, n)) for n in range(1, CHAMPIONS + 3)]
    for model in models:
        predict(made, model, audit[:1], disc(), 0.9)
    label(made, audit[0], disc())
    count_all(made)
    assert {one.model_id for one in rows(made, Tally)} == {m.id for m in models[-CHAMPIONS:]}


def test_a_look_counts_no_more_than_its_limit_and_says_that_more_is_left(made: Installation) -> None:
    audit = made.tiles("audit")
    model = judged(made, "m1", run_of(made, 1))
    predict(made, model, audit, disc(), 0.9)
    for tile in audit:
        label(made, tile, disc())
    assert left(made) == 3
    assert tally_labels(made.database, made.blobs, made.project_id, limit=4)  # three efforts first, then one
    assert (len(rows(made, Effort)), len(rows(made, Tally)), left(made)) == (3, 1, 2)
    assert not tally_labels(made.database, made.blobs, made.project_id, limit=4)
    assert left(made) == 0


def test_a_newer_mask_is_counted_and_the_older_one_is_not_spoken_of_any_more(made: Installation) -> None:
    tile = made.tiles("audit")[0]
    model = judged(made, "m1", run_of(made, 1))
    predict(made, model, [tile], disc(), 0.9)
    label(made, tile, disc())
    count_all(made)
    newer = label(made, tile, shifted(4))
    assert left(made) == 1
    count_all(made)
    with made.database.transaction() as session:
        assert set(tallies.counts_of(session, model.id, [newer])) == {newer}


def test_the_effort_is_what_was_changed_of_a_suggestion_or_drawn_without_one(made: Installation) -> None:
    train, audit = made.tiles("train"), made.tiles("audit")
    model = judged(made, "m1", run_of(made, 1))
    predict(made, model, [*train, *audit], shifted(6), 0.9)
    with made.database.transaction() as session:
        shown = {t.id: predictions.of(session, t.id, model.id) for t in (*train, *audit)}
    ids = {tile: one.id for tile, one in shown.items() if one is not None}
    corrected = label(made, train[0], disc(), shown=model, prediction_id=ids[train[0].id])
    confirmed = label(made, train[1], shifted(6), shown=model, prediction_id=ids[train[1].id], origin="confirmed")
    blind = label(made, audit[0], disc(), shown=model, prediction_id=ids[audit[0].id])
    unshown = label(made, train[2], disc())
    lost = label(made, train[3], disc(), shown=model)
    nothing = label(made, train[4], np.full((64, 64), 255, np.uint8))
    count_all(made)
    found = {one.mask_id: (one.clicks, one.suggested) for one in rows(made, Effort)}
    assert found == {
        corrected: (pytest.approx(clicks_to_correct(shifted(6), disc(), COUNTED_BY)), True),
        confirmed: (0.0, True),
        blind: (pytest.approx(clicks_to_draw(disc(), COUNTED_BY)), False),
        unshown: (pytest.approx(clicks_to_draw(disc(), COUNTED_BY)), False),
        lost: (None, False),
    }
    assert nothing not in found


def test_polygons_are_measured_against_what_the_page_showed(made: Installation) -> None:
    """Suggested outlines have few corners: leaving them alone costs nothing, whatever the raster behind them."""
    from backend.labelstudio.results import class_map_to_result, paint

    with made.database.transaction() as session:
        project = session.get_one(Project, made.project_id)
        project.label_type = "polygon"
        classes = projects.classes_of(project)
    tile = made.tiles("train")[0]
    model = judged(made, "m1", run_of(made, 1))
    predict(made, model, [tile], disc(), 0.9)
    with made.database.transaction() as session:
        shown = predictions.of(session, tile.id, model.id)
    assert shown is not None
    painted = paint(class_map_to_result(disc(), classes, label_type="polygon"), width=64, height=64, classes=classes)
    assert (painted != disc()).any()
    label(made, tile, painted, shown=model, prediction_id=shown.id)
    count_all(made)
    assert [one.clicks for one in rows(made, Effort)] == [0.0]


def test_two_people_on_one_tile_are_compared_by_their_newest_masks(made: Installation) -> None:
    tile, other = made.tiles("train")[:2]
    mine = label(made, tile, disc(), annotator=1)
    theirs = label(made, tile, shifted(3), annotator=2)
    label(made, other, disc(), annotator=1)
    label(made, other, disc(), annotator=1)  # one person twice is no second opinion
    label(made, other, disc(), annotator=2, state="skipped")
    label(made, other, disc(), annotator=None)
    count_all(made)
    assert [(one.first_mask_id, one.second_mask_id, one.counts) for one in rows(made, Agreement)] == [
        (mine, theirs, compare(disc(), shifted(3), 2).ravel().tolist())
    ]


def test_who_took_the_tile_from_the_queue_is_a_person_too(made: Installation) -> None:
    tile, *others = made.tiles("train")
    label(made, tile, disc(), annotator=1)
    label(made, tile, shifted(3), holder="token:a")
    label(made, tile, shifted(4), holder="token:b")
    for other in others:
        for _ in range(LEAST_LABELS // len(others)):
            label(made, other, disc(), holder="token:a")
    count_all(made)
    with made.database.transaction() as session:
        agreed = see_agreement(session, projects.get(session, made.project_id))
        costs = fitted_costs(session, made.project_id)
    assert {one.people for one in agreed} == {
        None,
        ("annotator 1", "token:a"),
        ("annotator 1", "token:b"),
        ("token:a", "token:b"),
    }
    assert costs.by_person["token:a"].labels == LEAST_LABELS + 1


def test_what_two_people_said_of_different_pixels_is_no_disagreement_and_no_work_of_the_other(
    made: Installation,
) -> None:
    """The second mask holds the first person's pixels too; these were neither drawn nor judged by the second."""
    tile, other = made.tiles("train")[:2]
    left_half, right_half = disc(), disc()
    left_half[:, 32:] = right_half[:, :32] = 255
    theirs = shifted(3)
    theirs[:, :30] = 255
    for number, (on, first, second) in enumerate(((tile, left_half, right_half), (other, left_half, theirs))):
        for person, said in enumerate((first, second), start=1):
            with made.database.transaction() as session:
                row = Annotation(
                    project_id=made.project_id,
                    tile_id=on.id,
                    ls_annotation_id=10 * number + person,
                    ls_task_id=on.id,
                    result_blob=made.blobs.put(b"[]"),
                    annotator=person,
                    scope="only the boxes",
                    updated_at=datetime(2026, 3, person, tzinfo=UTC),
                    state="present",
                )
                session.add(row)
                session.flush()
                add_answer(session, made.blobs, row, said, origin="annotated", prediction_id=None)
    count_all(made)
    with made.database.transaction() as session:
        both = masks.newest_counting(session, tile.id)
        agreements = see_agreement(session, projects.get(session, made.project_id))
    assert both is not None
    assert (decode_raster(made.blobs.get(both.blob)) == disc()).all()
    pairs = [np.array(one.counts).reshape(2, 2) for one in rows(made, Agreement)]
    assert [int(pair.sum()) for pair in pairs] == [0, 2 * 64], "columns 30 and 31 alone are known to both"
    assert [one.tiles for one in agreements] == [1, 1]
    assert agreements[0].pixels == 2 * 64
    clicks = {one.mask_id: one.clicks for one in rows(made, Effort)}
    assert clicks[both.id] == clicks_to_draw(right_half, COUNTED_BY)


def test_a_mask_of_another_size_counts_nothing_and_its_prediction_stays(made: Installation) -> None:
    tile = made.tiles("audit")[0]
    model = judged(made, "m1", run_of(made, 1))
    predict(made, model, [tile], disc(), 0.9)
    label(made, tile, disc(48))
    count_all(made)
    (kept,) = rows(made, Tally)
    assert not unpack(kept.counts, 2).any()
    assert len(rows(made, Prediction)) == 1
    assert left(made) == 0


def test_a_lost_prediction_is_made_again_and_a_lost_mask_sets_its_image_aside(made: Installation) -> None:
    audit = made.tiles("audit")
    model = judged(made, "m1", run_of(made, 1))
    for by, tile in enumerate(audit):
        predict(made, model, [tile], shifted(by), 0.9)
        label(made, tile, shifted(5 + by))
    with made.database.transaction() as session:
        lost = session.scalars(select(Prediction).where(Prediction.tile_id == audit[0].id)).one()
        mask = session.scalars(select(Mask).where(Mask.tile_id == audit[1].id)).one()
    for blob in (lost.class_blob, mask.blob):
        (made.folder / "blobs" / blob[:2] / blob).unlink()
    count_all(made)
    assert len(rows(made, Tally)) == 1
    with made.database.transaction() as session:
        assert session.get(Prediction, lost.id) is None
        states = {i.id: i.state for i in session.scalars(select(Image))}
    assert states[audit[1].image_id] == "quarantined"
    assert states[audit[0].image_id] == "ready"
    assert {one.clicks is None for one in rows(made, Effort)} == {True, False}
    assert left(made) == 0
