"""The story of a tile: made by the real steps of two rounds, then told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from backend.actions.explain_tile import Story, explain_tile
from backend.actions.judge_candidate import judge_candidate
from backend.actions.open_run import open_run
from backend.actions.rank_queue import rank_queue
from backend.store import events, masks, projects, runs
from backend.store.tables import Annotation, Mask, Run, Task
from mpamatch.domain.policy import Policy
from mpamatch.errors import NotFound
from mpamatch.files.rasters import encode_raster
from tests.builders import Installation, add_model, disc, installation, predict_all

pytestmark = pytest.mark.database
LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(database_url, tmp_path, train=5, audit=3, policy=Policy(debounce_s=0, retrain_after_tiles=1))


def label(made: Installation, tile_id: int, *, share: float, number: int) -> None:
    """One annotation and its mask, as the io worker keeps them."""
    mask = disc(radius=10 + number)
    mask[int(share * mask.shape[0]) :] = 255
    blob = made.blobs.put(encode_raster(mask))
    with made.database.transaction() as session:
        annotation = Annotation(
            project_id=made.project_id,
            tile_id=tile_id,
            ls_annotation_id=700 + number,
            ls_task_id=70,
            result_blob=blob,
            annotator=4,
            lead_time_s=31.5,
            shown_version="test-glands-m0",
            updated_at=LATER,
            state="present",
        )
        session.add(annotation)
        session.flush()
        events.record(
            session,
            project_id=made.project_id,
            actor="label-studio:4",
            what="annotation present",
            subject=f"annotation:{annotation.id}",
        )
        reviewed = float((mask != 255).mean())
        masks.append(
            session,
            tile_id=tile_id,
            origin="annotated",
            blob=blob,
            reviewed_share=reviewed,
            annotation_id=annotation.id,
        )


def trained(made: Installation, *, good: bool) -> Run:
    """A run opened by the rules, whose candidate the gate judges."""
    run, _ = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is not None
    with made.database.transaction() as session:
        fresh = session.get_one(Run, run.id)
        runs.move(session, fresh, "training", actor="test")
        runs.move(session, fresh, "judging", actor="test")
    model = add_model(made, run.version, run_id=run.id)
    predict_all(made, model, disc() if good else np.zeros_like(disc()))
    assert judge_candidate(made.database, made.blobs, run.id, now=LATER) is not None
    return run


def tell(made: Installation, tile_id: int, runs_limit: int = 20) -> Story:
    return explain_tile(made.database, made.blobs, tile_id, runs_limit=runs_limit)


@pytest.fixture
def told(made: Installation) -> Installation:
    """Two rounds: labelled in part, trained, promoted; labelled whole, trained, kept out."""
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    audit = made.tiles("audit")
    for tile in audit[:2]:
        label(made, tile.id, share=1.0, number=20 + tile.id)
    first = made.tiles("train")[0]
    label(made, first.id, share=0.5, number=1)
    label(made, made.tiles("train")[1].id, share=1.0, number=3)
    trained(made, good=True)
    label(made, first.id, share=1.0, number=2)
    trained(made, good=False)
    rank_queue(made.database, made.project_id)
    with made.database.transaction() as session:
        session.add(
            Task(project_id=made.project_id, tile_id=first.id, ls_task_id=70, origin="head", state="labelled", why="w")
        )
    return made


def test_a_labelled_tile_tells_which_run_used_which_version_and_what_came_of_it(told: Installation) -> None:
    story = tell(told, told.tiles("train")[0].id)
    second, first = story.runs
    assert (first.number, first.used, first.mask_version, first.first) == (1, "as a label and in the pool", 1, True)
    assert (second.number, second.used, second.mask_version, second.first) == (2, "as a label", 2, True)
    assert (first.verdict, second.verdict) == ("promoted", "kept out")
    assert first.reasons
    assert second.reasons
    assert [mask.version for mask in story.tile.masks] == [2, 1]
    assert [p.version for p in story.predictions] == [second.candidate, first.candidate, "test-glands-m0"]
    assert story.predictions[1].class_shares == pytest.approx({"background": 0.85, "gland": 0.15}, abs=0.02)
    assert [(a.annotator, a.seconds) for a in story.tile.annotations] == [(4, 31.5), (4, 31.5)]
    assert [(t.ls_task_id, t.state) for t in story.tasks] == [(70, "labelled")]
    assert {"image registered", "annotation present"} <= {e.what for e in story.events}


def test_a_tile_of_the_pool_tells_its_place_and_that_runs_saw_it_unlabelled(told: Installation) -> None:
    story = tell(told, told.tiles("train")[3].id)
    assert {(run.used, run.mask_version) for run in story.runs} == {("in the pool", None)}
    place = story.tile.place
    assert place is not None
    assert place.reasons
    assert story.ranked_at is not None
    assert story.generation == told.project().queue_generation


def test_an_audit_tile_tells_which_candidates_it_judged(told: Installation) -> None:
    story = tell(told, told.tiles("audit")[0].id)
    assert {(run.number, run.used, run.mask_version) for run in story.runs} == {
        (1, "to judge the candidate", 1),
        (2, "to judge the candidate", 1),
    }
    assert story.predictions[0].regions is not None


def test_of_an_audit_tile_without_a_mask_nothing_is_told_that_a_model_said(told: Installation) -> None:
    story = tell(told, told.tiles("audit")[2].id)
    assert story.tile.blind
    assert {(p.class_shares, p.regions) for p in story.predictions} == {(None, None)}
    assert story.tile.regions == ()


def test_only_so_many_snapshots_are_read_and_the_rest_is_said(told: Installation) -> None:
    story = tell(told, told.tiles("train")[0].id, runs_limit=1)
    assert ([run.number for run in story.runs], story.runs_unread) == ([2], 1)


def test_a_snapshot_that_is_gone_is_said_and_the_rest_is_told(told: Installation) -> None:
    with told.database.transaction() as session:
        run = session.query(Run).filter(Run.number == 1).one()
    told.blobs.path(run.snapshot_blob).unlink()
    second, first = tell(told, told.tiles("train")[0].id).runs
    assert "cannot be read" in first.used
    assert second.mask_version == 2


def test_a_withdrawn_mask_is_told_as_such(told: Installation) -> None:
    tile = told.tiles("train")[0]
    with told.database.transaction() as session:
        newest = session.query(Mask).filter(Mask.tile_id == tile.id, Mask.version == 2).one()
        newest.withdrawn_at = LATER + timedelta(days=1)
    newest_told, older = tell(told, tile.id).tile.masks
    assert (newest_told.withdrawn, newest_told.counts, older.counts) == (True, False, True)


@pytest.mark.parametrize("tile_id", [0, -1, 10**6, 1 << 70])
def test_a_tile_that_does_not_exist_is_one_clear_line(made: Installation, tile_id: int) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        tell(made, tile_id)
