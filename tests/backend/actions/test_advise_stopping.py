from __future__ import annotations

import math
from pathlib import Path

import pytest
from sqlalchemy import select

from backend.actions.advise_stopping import StoppingAdvice, advise_stopping
from backend.actions.change_champion import rollback
from backend.actions.fit_costs import COUNTED_BY, fitted_costs
from backend.actions.rank_queue import rank_queue
from backend.actions.see_agreement import see_agreement
from backend.actions.tally_labels import tally_labels
from backend.store import projects
from backend.store.tables import Model, Prediction, Run
from mpamatch.domain.clicks import clicks_to_draw
from mpamatch.domain.metrics import confusion, mean_dice
from tests.backend.actions.tallied_project import NOW, judged, label, predict, run_of, shifted
from tests.builders import Installation, disc, installation

pytestmark = pytest.mark.database


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(database_url, tmp_path, train=30, audit=2)


def count_all(made: Installation) -> None:
    while tally_labels(made.database, made.blobs, made.project_id, limit=50):
        pass


def look(made: Installation) -> StoppingAdvice:
    count_all(made)
    with made.database.transaction() as session:
        return advise_stopping(session, projects.get(session, made.project_id))


def test_each_verdict_tells_what_its_labels_brought_and_cost(made: Installation) -> None:
    train = made.tiles("train")
    runs = [run_of(made, n, labelled=4 * n) for n in (1, 2, 3)]
    for place in range(12):
        label(made, train[place], disc(), run_id=runs[place // 4])
    judged(made, "m1", runs[0], difference=0.4)
    judged(made, "m2", runs[1], promote=False, difference=-0.02, reach=None)
    judged(made, "m3", runs[2], difference=0.03)
    first, second, third = look(made).verdicts
    clicks = clicks_to_draw(disc(), COUNTED_BY)
    assert (first.against, second.against, third.against) == ("test-glands-m0", "m1", "m1")
    assert [(v.step.labelled_before, v.step.labelled_after) for v in (first, second, third)] == [
        (0, 4),
        (4, 8),
        (4, 12),
    ]
    assert [v.labels for v in (first, second, third)] == [4, 4, 8]
    assert third.clicks == pytest.approx(8 * clicks)
    assert third.seconds == pytest.approx(8 * (3 + 1.1 * clicks))  # too few labels for a fit: the defaults
    assert third.per_100_clicks == pytest.approx(0.03 / (8 * clicks) * 100)
    assert third.per_100_bounds == pytest.approx((0.02 / (8 * clicks) * 100, 0.04 / (8 * clicks) * 100))
    assert (second.promoted, second.per_100_bounds, second.step.usable) == (False, None, False)


def test_an_adapted_champion_stands_for_what_it_was_adapted_from(made: Installation) -> None:
    """Its verdict says nothing of labels, and the next one is held against the labels that it had."""
    train = made.tiles("train")
    runs = [run_of(made, n, labelled=labelled) for n, labelled in ((1, 4), (2, 0), (3, 8))]
    with made.database.transaction() as session:
        session.get_one(Run, runs[1]).trigger = "adapt"
    for place in range(8):
        label(made, train[place], disc(), run_id=runs[0 if place < 4 else 2])
    judged(made, "m1", runs[0], difference=0.4)
    adapted = judged(made, "m2", runs[1], difference=0.02)
    with made.database.transaction() as session:
        session.get_one(Model, adapted.id).metrics = {"adapted": {"from": "m1", "images": 20}}
    judged(made, "m3", runs[2], difference=0.03)
    first, third = look(made).verdicts
    assert (first.version, third.version, third.against) == ("m1", "m3", "m2")
    assert (third.step.labelled_before, third.step.labelled_after, third.labels) == (4, 8, 4)


def test_the_advice_follows_the_verdicts_and_the_head_that_waits(made: Installation) -> None:
    train = made.tiles("train")
    runs = [run_of(made, n, labelled=3 * n) for n in range(1, 6)]
    for place in range(15):
        label(made, train[place], disc(), run_id=runs[place // 3])
    for number in range(1, 6):
        gain = 0.05 * math.log(number / max(number - 1, 1)) if number > 1 else 0.5
        model = judged(made, f"m{number}", runs[number - 1], difference=gain, reach=0.004)
    predict(made, model, made.tiles(), disc(), 0.9)
    rank_queue(made.database, made.project_id)
    found = look(made)
    assert (found.head_tiles, found.labelled, found.advice.usable) == (15, 15, 4)
    assert found.advice.verdict == "go on"
    assert found.advice.next_head is not None
    assert found.advice.next_head.expected == pytest.approx(0.05 * math.log(2))
    assert found.clicks_per_tile == pytest.approx(clicks_to_draw(disc(), COUNTED_BY))
    assert found.advice.per_100_clicks is not None


def test_a_champion_put_back_by_hand_is_what_the_next_candidate_is_compared_with(made: Installation) -> None:
    runs = [run_of(made, n, labelled=4 * n) for n in (1, 2, 3)]
    judged(made, "m1", runs[0], difference=0.4)
    judged(made, "m2", runs[1], difference=0.1)
    with made.database.transaction() as session:
        rollback(session, projects.get(session, made.project_id), to_version=None, actor="operator", now=NOW)
    judged(made, "m3", runs[2], difference=0.05)
    assert [(v.version, v.against) for v in look(made).verdicts] == [
        ("m1", "test-glands-m0"),
        ("m2", "m1"),
        ("m3", "m1"),
    ]


def test_suggestions_accepted_as_they_were_are_counted_among_those_that_were_shown(made: Installation) -> None:
    train = made.tiles("train")
    model = judged(made, "m1", run_of(made, 1))
    predict(made, model, made.tiles(), disc(), 0.9)
    with made.database.transaction() as session:
        ids = {p.tile_id: p.id for p in session.scalars(select(Prediction))}
    for place in range(4):
        origin, mask = ("confirmed", disc()) if place < 3 else ("annotated", shifted(2))
        label(made, train[place], mask, shown=model, prediction_id=ids[train[place].id], origin=origin)
    label(made, train[5], disc())
    label(made, made.tiles("audit")[0], disc(), shown=model, prediction_id=ids[made.tiles("audit")[0].id])
    accepted = look(made).accepted
    assert (accepted.part, accepted.whole) == (3, 4)
    assert accepted.low is not None
    assert accepted.low < 0.75


def test_an_empty_project_is_too_early(made: Installation) -> None:
    found = look(made)
    assert (found.advice.verdict, found.verdicts, found.accepted.share) == ("too early", (), None)


def test_costs_are_fitted_to_each_persons_times(made: Installation) -> None:
    train = made.tiles("train")
    radii = [6 + n % 20 for n in range(28)]
    for place, radius in enumerate(radii):
        clicks = clicks_to_draw(disc(radius=radius), COUNTED_BY)
        seconds = 5 + 2 * clicks + (4000 if place % 9 == 0 else 0)
        label(made, train[place], disc(radius=radius), annotator=7, seconds=seconds)
    label(made, train[28], disc(), annotator=8, seconds=None)
    label(made, train[29], disc(), annotator=None, seconds=5 + 2 * clicks_to_draw(disc(), COUNTED_BY))
    count_all(made)
    with made.database.transaction() as session:
        found = fitted_costs(session, made.project_id)
    assert found.overall.labels == 29
    for person in ("annotator 7", "annotator 8", None):
        assert found.model_for(person).seconds_fixed == pytest.approx(5, abs=0.5)
        assert found.model_for(person).seconds_per_click == pytest.approx(2, abs=0.05)
    assert set(found.by_person) == {"annotator 7"}


def test_nothing_is_fitted_on_audit_tiles(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path, train=4, audit=24)
    for place, tile in enumerate([*made.tiles("audit"), *made.tiles("train")]):
        label(made, tile, disc(radius=6 + place % 20), seconds=90.0)
    count_all(made)
    with made.database.transaction() as session:
        found = fitted_costs(session, made.project_id)
    assert (found.overall.labels, found.overall.model) == (4, COUNTED_BY)


def test_people_agree_as_their_masks_do(made: Installation) -> None:
    train, audit = made.tiles("train"), made.tiles("audit")
    for by, tile in ((0, train[0]), (4, train[1]), (8, audit[0])):
        label(made, tile, disc(), annotator=1)
        label(made, tile, shifted(by), annotator=2)
    label(made, train[2], disc(), annotator=1)
    count_all(made)
    with made.database.transaction() as session:
        everybody, two = see_agreement(session, projects.get(session, made.project_id))
    counts = sum(confusion(shifted(by), disc(), 2) for by in (0, 4, 8))
    assert two.people == ("annotator 1", "annotator 2")
    assert (two.tiles, two.blind_tiles, two.bounds) == (3, 1, None)
    assert two.dice == pytest.approx(mean_dice(counts))
    assert two.lowest is not None
    assert two.lowest[0] == audit[0].id
    assert everybody.people is None
    with made.database.transaction() as session:
        assert session.scalar(select(Model.kind)) == "blank"  # no model is needed for it
