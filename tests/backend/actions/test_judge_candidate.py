from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from backend.actions.change_champion import promote
from backend.actions.judge_candidate import judge_candidate
from backend.actions.open_run import open_run
from backend.store import masks, predictions, projects, runs
from backend.store.tables import Image, Mask, Model, Run, Tile
from mpamatch.domain.policy import Policy
from tests.builders import Installation, add_model, disc, installation, predict_all

pytestmark = pytest.mark.database
LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    policy = Policy(debounce_s=0, retrain_after_tiles=2, gate_min_tiles=4, gate_min_groups=3)
    made = installation(database_url, tmp_path, train=4, audit=6, masked=True, policy=policy)
    predict_all(made, _champion(made))
    return made


def _champion(made: Installation) -> Model:
    with made.database.transaction() as session:
        return projects.champion(session, projects.get(session, made.project_id))


def _judging(made: Installation, version: str) -> tuple[Run, Model]:
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.requested_run = "manual"
    run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is not None, decision.reasons
    model = add_model(made, version, run_id=run.id)
    with made.database.transaction() as session:
        row = session.get_one(Run, run.id)
        runs.move(session, row, "training", actor="test")
        runs.move(session, row, "judging", actor="test")
    return run, model


def _holdout(predicted: list[int]) -> dict[str, Any]:
    """What a training tells of the tiles that it kept back: both classes are there."""
    return {"predicted_classes": predicted, "per_class": [{"pixels": 90}, {"pixels": 10}]}


def _worse() -> np.ndarray:
    return 1 - disc()


def test_no_verdict_while_a_prediction_is_missing(made: Installation) -> None:
    run, _ = _judging(made, "m1")
    assert judge_candidate(made.database, made.blobs, run.id, now=LATER) is None
    with made.database.transaction() as session:
        assert session.get_one(Run, run.id).state == "judging"


def test_a_better_candidate_becomes_champion_with_its_figures_stored(made: Installation) -> None:
    run, model = _judging(made, "m1")
    predict_all(made, model, disc(x=26))
    verdict = judge_candidate(made.database, made.blobs, run.id, now=LATER)
    assert verdict is not None
    assert verdict.promote
    champion = _champion(made)
    assert champion.version == "m1"
    assert champion.verdict is not None
    assert champion.verdict["figures"]["candidate_dice"] > champion.verdict["figures"]["champion_dice"]
    with made.database.transaction() as session:
        assert session.get_one(Run, run.id).state == "done"


def test_a_worse_candidate_is_kept_out_and_nothing_moves(made: Installation) -> None:
    run, model = _judging(made, "m1")
    predict_all(made, model, disc(x=26))
    judge_candidate(made.database, made.blobs, run.id, now=LATER)
    before = made.project()
    run, model = _judging(made, "m2")
    predict_all(made, model, _worse())
    verdict = judge_candidate(made.database, made.blobs, run.id, now=LATER + timedelta(days=1))
    assert verdict is not None
    assert not verdict.promote
    assert verdict.reasons
    after = made.project()
    assert (after.champion_id, after.ls_model_version, after.queue_generation) == (
        before.champion_id,
        before.ls_model_version,
        before.queue_generation,
    )
    with made.database.transaction() as session:
        rejected = session.get_one(Model, model.id)
    assert rejected.state == "rejected"
    assert rejected.verdict is not None
    assert rejected.verdict["reasons"] == list(verdict.reasons)


def test_judging_twice_gives_one_verdict(made: Installation) -> None:
    run, model = _judging(made, "m1")
    predict_all(made, model, disc(x=26))
    assert judge_candidate(made.database, made.blobs, run.id, now=LATER) is not None
    assert judge_candidate(made.database, made.blobs, run.id, now=LATER) is None


def test_a_candidate_that_was_promoted_by_hand_ends_its_run(made: Installation) -> None:
    run, model = _judging(made, "m1")
    predict_all(made, model, disc(x=26))
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        row = session.get_one(Model, model.id)
        promote(session, project, row, actor="operator", now=LATER, provisional=True, why="by hand")
    assert judge_candidate(made.database, made.blobs, run.id, now=LATER) is None
    assert _champion(made).version == "m1"
    with made.database.transaction() as session:
        assert session.get_one(Run, run.id).state == "done"


def test_an_adapted_candidate_stays_out_without_a_bound_whatever_its_run_is_called(made: Installation) -> None:
    run, model = _judging(made, "m1")
    with made.database.transaction() as session:
        session.get_one(Model, model.id).metrics = {"adapted": {"from": "test-glands-m0", "images": 4}}
        for mask in session.scalars(select(Mask)):
            mask.withdrawn_at = LATER
    verdict = judge_candidate(made.database, made.blobs, run.id, now=LATER)
    assert verdict is not None
    assert (verdict.promote, verdict.provisional, verdict.figures["rule"]) == (False, False, "no-audit")
    assert _champion(made).version == "test-glands-m0"


def _state(made: Installation, run: Run) -> str:
    with made.database.transaction() as session:
        return session.get_one(Run, run.id).state


def test_a_lost_audit_mask_is_set_aside_and_the_rest_is_judged(made: Installation) -> None:
    run, model = _judging(made, "m1")
    predict_all(made, model, disc(x=26))
    with made.database.transaction() as session:
        lost = next(m for m in masks.current(session, made.project_id) if m.split == "audit")
    for mask in (m for m in _audit(made) if m.blob == lost.blob and m.mask_id != lost.mask_id):
        pytest.fail(f"mask {mask.mask_id} has the same content")
    made.blobs.path(lost.blob).unlink()
    assert judge_candidate(made.database, made.blobs, run.id, now=LATER) is None
    assert judge_candidate(made.database, made.blobs, run.id, now=LATER) is not None
    assert _state(made, run) == "done"
    with made.database.transaction() as session:
        tile = session.get_one(Tile, lost.tile_id)
        image = session.get_one(Image, tile.image_id)
        assert image.state == "quarantined"
        assert f"mask {lost.mask_id} blob {lost.blob[:12]} is missing" in (image.problem or "")


def _audit(made: Installation) -> list[masks.CurrentMask]:
    with made.database.transaction() as session:
        return [m for m in masks.current(session, made.project_id) if m.split == "audit"]


def test_a_lost_prediction_is_made_again_before_the_verdict(made: Installation) -> None:
    run, model = _judging(made, "m1")
    predict_all(made, model, disc(x=26))
    tile_id = _audit(made)[0].tile_id
    with made.database.transaction() as session:
        lost = predictions.of(session, tile_id, model.id)
    assert lost is not None
    content = made.blobs.path(lost.class_blob).read_bytes()
    made.blobs.path(lost.class_blob).write_bytes(content[:-1])
    assert judge_candidate(made.database, made.blobs, run.id, now=LATER) is None
    with made.database.transaction() as session:
        assert predictions.of(session, tile_id, model.id) is None
    predict_all(made, model, disc(x=26))
    assert judge_candidate(made.database, made.blobs, run.id, now=LATER) is not None


@pytest.mark.parametrize(
    ("metrics", "kept_out"),
    [
        ({"labelled_classes": [0]}, True),
        ({"labelled_classes": [0, 1], "holdout": _holdout([0])}, True),
        ({"labelled_classes": [0, 1], "holdout": _holdout([0, 1])}, False),
        ({"labelled_classes": [0, 1], "holdout": None}, False),
    ],
)
def test_what_learnt_one_class_replaces_no_starter_also_without_an_audit_mask(
    made: Installation, metrics: dict[str, Any], kept_out: bool
) -> None:
    run, model = _judging(made, "m1")
    with made.database.transaction() as session:
        session.get_one(Model, _champion(made).id).kind = "starter"
        session.get_one(Model, model.id).metrics = metrics
        for mask in session.scalars(select(Mask)):
            mask.withdrawn_at = LATER
    verdict = judge_candidate(made.database, made.blobs, run.id, now=LATER)
    assert verdict is not None
    assert verdict.promote is not kept_out
    assert ("one class everywhere" in verdict.reasons[0]) is kept_out
