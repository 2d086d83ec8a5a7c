"""A run that adapts the champion's norms: what it freezes, what it leaves alone, and when there is none."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from backend.actions.open_run import facts_of, open_run, request_adaptation, request_run
from backend.store import masks, models, projects, runs
from backend.store.tables import Event, Model, Run
from mpamatch.domain import adaptation
from mpamatch.domain.policy import Policy
from mpamatch.errors import Conflict
from mpamatch.files.rasters import encode_raster
from tests.builders import Installation, add_images, add_model, disc, installation

pytestmark = pytest.mark.database
LATER = datetime(2100, 1, 1, tzinfo=UTC)
JUDGED = Policy(debounce_s=0, retrain_after_tiles=2, gate_min_tiles=3, gate_min_groups=3)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """Six train tiles without labels, three audit tiles with masks, and a champion with weights."""
    made = installation(database_url, tmp_path, train=6, audit=0, policy=JUDGED)
    add_images(made, train=0, audit=3, masked=True, first=100)
    _weights(made, made.blobs.put(b"weights"))
    return made


def _weights(made: Installation, blob: str | None, kind: str = "trained") -> None:
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        champion.blob, champion.kind = blob, kind


def _label(made: Installation, count: int) -> None:
    with made.database.transaction() as session:
        for tile in made.tiles("train")[:count]:
            blob = made.blobs.put(encode_raster(disc()))
            masks.append(session, tile_id=tile.id, origin="annotated", blob=blob, reviewed_share=1.0)


def _ask(made: Installation) -> None:
    with made.database.transaction() as session:
        request_adaptation(session, projects.get(session, made.project_id))


def _open(made: Installation) -> Run | None:
    return open_run(made.database, made.blobs, made.project_id, now=LATER)[0]


def _adapting(made: Installation) -> Run:
    _ask(made)
    run = _open(made)
    assert run is not None
    assert run.trigger == "adapt"
    return run


def _end(made: Installation, run: Run, *states: str) -> None:
    with made.database.transaction() as session:
        for state in states:
            runs.move(session, session.get_one(Run, run.id), state, actor="test")


def _first_runs(made: Installation) -> set[int | None]:
    with made.database.transaction() as session:
        return {m.first_run_id for m in masks.current(session, made.project_id)}


def _snapshot(made: Installation, run: Run) -> dict[str, Any]:
    return dict(json.loads(made.blobs.get(run.snapshot_blob)))


def test_it_freezes_the_pool_and_no_label_and_counts_no_mask(made: Installation) -> None:
    _label(made, 1)
    run = _adapting(made)
    snapshot = _snapshot(made, run)
    assert (snapshot["adapt"], snapshot["labelled"]) == (True, [])
    assert [row["tile"] for row in snapshot["pool"]] == [t.id for t in made.tiles("train")[1:]]
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        queued = session.scalars(select(Event).where(Event.what == "run queued")).one()
        asked = session.scalars(select(Event).where(Event.what == "run requested")).one()
    assert snapshot["start_model"] == champion.id
    assert _first_runs(made) == {None}
    assert made.project().requested_adaptation is False
    assert queued.after is not None
    assert (queued.after["adapt"], queued.after["labelled"], queued.after["pool"]) == (True, 0, 5)
    assert "no label is learnt" in queued.after["reasons"][0]
    assert asked.after == {"adapt": True}


@pytest.mark.parametrize("ended", [("training", "judging", "done"), ("failed",), ("cancelled",)])
def test_labels_start_the_next_run_as_if_there_had_been_no_adaptation(
    made: Installation, ended: tuple[str, ...]
) -> None:
    _label(made, 2)
    run = _adapting(made)
    assert _open(made) is None, "one run at a time"
    _end(made, run, *ended)
    with made.database.transaction() as session:
        facts = facts_of(session, projects.get(session, made.project_id), now=LATER)
    assert (facts.changed_tiles, facts.returned_tiles, facts.runs_without_model, facts.last_run) == (5, 0, 0, None)
    trained = _open(made)
    assert trained is not None
    assert trained.trigger == "labels"
    assert (trained.number, trained.version) == (2, "test-glands-m2")
    assert _first_runs(made) == {trained.id}


def test_it_waits_for_an_open_run_and_neither_wish_takes_the_others_place(made: Installation) -> None:
    _label(made, 2)
    first = _open(made)
    assert first is not None
    with made.database.transaction() as session:
        request_run(session, projects.get(session, made.project_id), by="manual")
    _ask(made)
    assert _open(made) is None
    _end(made, first, "cancelled")
    second = _open(made)
    assert second is not None
    assert second.trigger == "adapt"
    assert made.project().requested_run == "manual"
    _end(made, second, "training", "judging", "done")
    third = _open(made)
    assert third is not None
    assert third.trigger == "manual"


def test_a_wish_that_is_said_again_while_a_decision_takes_the_first_is_not_lost(made: Installation) -> None:
    _ask(made)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        assert project.requested_adaptation is True
        run = _open(made)
        assert run is not None
        _end(made, run, "cancelled")
        request_adaptation(session, project)
    assert made.project().requested_adaptation is True


def test_nor_is_one_for_a_training(made: Installation) -> None:
    _label(made, 2)
    with made.database.transaction() as session:
        request_run(session, projects.get(session, made.project_id), by="manual")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        assert project.requested_run == "manual"
        assert _open(made) is not None
        request_run(session, project, by="manual")
    assert made.project().requested_run == "manual"


def test_min_labelled_is_of_trainings_and_stays_so(made: Installation) -> None:
    with made.database.transaction() as session:
        request_run(session, projects.get(session, made.project_id), by="manual")
    assert _open(made) is None, "no train tile is labelled: the pool alone is never trained on"
    assert _adapting(made).number == 1


def test_a_champion_without_weights_is_refused(made: Installation) -> None:
    _weights(made, None, "blank")
    with pytest.raises(Conflict, match=r"test-glands-m0: has no weights"):
        _ask(made)
    assert made.project().requested_adaptation is False


def test_where_every_train_tile_is_labelled_it_is_refused(made: Installation) -> None:
    _label(made, 6)
    with pytest.raises(Conflict, match="pool: holds no unlabelled train tile to adapt to; register more images"):
        _ask(made)


@pytest.mark.parametrize(("share", "adapts"), [(0.0, False), (0.5, True)])
def test_a_tile_that_is_labelled_in_part_is_adapted_to_and_one_where_nobody_could_tell_is_not(
    made: Installation, share: float, adapts: bool
) -> None:
    _label(made, 6)
    last = made.tiles("train")[-1].id
    with made.database.transaction() as session:
        blob = made.blobs.put(encode_raster(disc(x=26)))
        masks.append(session, tile_id=last, origin="annotated", blob=blob, reviewed_share=share)
    if adapts:
        assert [row["tile"] for row in _snapshot(made, _adapting(made))["pool"]] == [last]
        return
    with pytest.raises(Conflict, match="no unlabelled train tile"):
        _ask(made)


@contextmanager
def _lists_read(made: Installation) -> Iterator[list[str]]:
    """The queries that answer with more than one row."""
    found: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("SELECT") and cursor.rowcount > 1:
            found.append(statement)

    event.listen(made.database.engine, "after_cursor_execute", note)
    yield found
    event.remove(made.database.engine, "after_cursor_execute", note)


def test_asking_reads_neither_the_pool_nor_the_masks(made: Installation) -> None:
    _label(made, 2)
    with _lists_read(made) as read:
        _ask(made)
    assert read == []


@pytest.mark.parametrize("adapt", [True, False])
def test_opening_a_run_reads_masks_and_pool_once(made: Installation, adapt: bool) -> None:
    _label(made, 2)
    if adapt:
        _ask(made)
    with _lists_read(made) as read:
        run = _open(made)
    assert run is not None
    assert run.trigger == ("adapt" if adapt else "labels")
    assert len(read) == 2, read


def test_a_gate_that_could_not_tell_is_a_refusal(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path, train=3, audit=2, policy=JUDGED)
    _weights(made, made.blobs.put(b"weights"))
    with pytest.raises(Conflict, match="audit tiles: 0 labelled"):
        _ask(made)
    add_images(made, train=0, audit=2, masked=True, first=100)
    with pytest.raises(Conflict, match="audit tiles: 2 labelled of 2 groups; the gate needs 3 tiles of 3 groups"):
        _ask(made)


def test_a_wish_that_became_vain_while_it_waited_is_dropped_with_its_reason(made: Installation) -> None:
    _label(made, 2)
    first = _open(made)
    assert first is not None
    _ask(made)
    _weights(made, None, "blank")
    assert _open(made) is None
    assert made.project().requested_adaptation is True, "what a later moment decides is not decided now"
    _end(made, first, "training", "judging", "done")
    assert _open(made) is None
    assert made.project().requested_adaptation is False
    with made.database.transaction() as session:
        dropped = session.scalars(select(Event).where(Event.what == "run request dropped")).one()
    assert dropped.after is not None
    assert "has no weights" in dropped.after["reasons"][0]


def test_while_one_is_at_it_another_wish_is_refused_and_names_it(made: Installation) -> None:
    run = _adapting(made)
    with pytest.raises(Conflict, match=f"run {run.number} is at it"):
        _ask(made)
    assert made.project().requested_adaptation is False


def test_asked_again_it_draws_what_it_drew(made: Installation) -> None:
    first = _adapting(made)
    _end(made, first, "cancelled")
    again = _adapting(made)
    assert again.number != first.number
    assert _snapshot(made, again) == _snapshot(made, first)


def test_of_a_large_pool_the_champions_seed_draws(made: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptation, "MOST_TILES", 3)
    run = _adapting(made)
    drawn = {row["tile"] for row in _snapshot(made, run)["pool"]}
    assert len(drawn) == 3
    seed = made.project().seed + _snapshot(made, run)["start_model"]
    assert drawn == adaptation.draw_tiles((t.id for t in made.tiles("train")), seed)


@pytest.mark.parametrize(("kind", "full"), [("starter", True), ("trained", False)])
def test_a_training_begins_with_an_adapted_champion_as_with_what_it_was_adapted_from(
    made: Installation, kind: str, full: bool
) -> None:
    """The whole schedule where no label of this project was ever learnt, else the short one."""
    _weights(made, made.blobs.put(b"weights"), kind)
    run = _adapting(made)
    _end(made, run, "training", "judging", "done")
    adapted = add_model(made, run.version, run_id=run.id)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        before, row = projects.champion(session, project), session.get_one(Model, adapted.id)
        before.state = "retired"
        session.flush()
        row.state, row.blob, project.champion_id = "champion", made.blobs.put(b"adapted"), row.id
        row.metrics = {"adapted": {"from": before.version, "images": 6}}
        assert models.origin(session, row).id == before.id
    _label(made, 2)
    trained = _open(made)
    assert trained is not None
    snapshot = _snapshot(made, trained)
    assert (snapshot["start_model"], snapshot["full_schedule"], "adapt" in snapshot) == (adapted.id, full, False)
