import dataclasses
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backend.actions.open_run import facts_of, open_run
from backend.store import masks, projects
from mpamatch.domain.policy import Policy
from mpamatch.domain.recipe import Recipe
from mpamatch.domain.schedule import decide
from mpamatch.domain.starting import Start
from mpamatch.files.rasters import encode_raster
from mpamatch.files.starter import starter_archive, starter_classes
from tests.builders import Installation, disc, installation

pytestmark = pytest.mark.database
LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(database_url, tmp_path, train=6, audit=3, policy=Policy(debounce_s=0, retrain_after_tiles=2))


def _mask(made: Installation, tile_id: int, mask: np.ndarray) -> None:
    with made.database.transaction() as session:
        masks.append(
            session,
            tile_id=tile_id,
            origin="annotated",
            blob=made.blobs.put(encode_raster(mask)),
            reviewed_share=float((mask != 255).mean()),
        )


def _snapshot(made: Installation) -> dict[str, Any]:
    run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is not None, decision.reasons
    return dict(json.loads(made.blobs.get(run.snapshot_blob)))


def test_a_snapshot_holds_train_labels_and_the_pool_and_nothing_of_the_audit_split(made: Installation) -> None:
    train, audit = made.tiles("train"), made.tiles("audit")
    for tile in [*train[:2], audit[0]]:
        _mask(made, tile.id, disc())
    snapshot = _snapshot(made)
    assert [row["tile"] for row in snapshot["labelled"]] == [t.id for t in train[:2]]
    assert [row["tile"] for row in snapshot["pool"]] == [t.id for t in train[2:]]


@pytest.mark.parametrize(("start", "fresh_head"), [("blank", False), ("encoder", True)])
def test_a_first_run_without_a_model_begins_with_the_starters_encoder_where_the_policy_says_so(
    made: Installation, start: Start, fresh_head: bool
) -> None:
    for tile in made.tiles("train")[:2]:
        _mask(made, tile.id, disc())
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        project.policy = dataclasses.replace(projects.policy_of(project), start=start).to_json()
    snapshot = _snapshot(made)
    assert snapshot["start_model"] is None
    assert snapshot["full_schedule"] is False
    if fresh_head:
        assert made.blobs.get(snapshot["encoder_blob"]) == starter_archive(starter_classes())
    else:
        assert snapshot["encoder_blob"] is None


@pytest.mark.parametrize("method", [None, "unimatch-ema", "supervised"])
def test_a_run_trains_by_the_method_of_the_policy_else_by_the_shipped_one(
    made: Installation, method: str | None
) -> None:
    for tile in made.tiles("train")[:2]:
        _mask(made, tile.id, disc())
    with made.database.transaction() as session:
        projects.change_policy(session, projects.get(session, made.project_id), {"train_method": method}, actor="test")
    run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is not None, decision.reasons
    assert run.recipe["method"] == (method or Recipe.for_profile("demo").method)


def test_a_partly_reviewed_tile_is_in_both_streams_and_an_abstention_in_none(made: Installation) -> None:
    whole, partly, unsure = made.tiles("train")[:3]
    part = disc()
    part[:32] = 255
    _mask(made, whole.id, disc())
    _mask(made, partly.id, part)
    _mask(made, unsure.id, np.full((64, 64), 255, np.uint8))
    snapshot = _snapshot(made)
    labelled = {row["tile"] for row in snapshot["labelled"]}
    pool = {row["tile"] for row in snapshot["pool"]}
    assert labelled == {whole.id, partly.id}
    assert partly.id in pool
    assert not {whole.id, unsure.id} & pool


def test_only_the_newest_mask_of_a_tile_trains(made: Installation) -> None:
    first, second = made.tiles("train")[:2]
    _mask(made, first.id, disc(x=20))
    _mask(made, first.id, disc(x=40))
    _mask(made, second.id, disc())
    rows = {row["tile"]: row for row in _snapshot(made)["labelled"]}
    assert rows[first.id]["version"] == 2


def test_too_few_changes_open_nothing_and_say_how_many_are_needed(made: Installation) -> None:
    _mask(made, made.tiles("train")[0].id, disc())
    run, decision = open_run(made.database, made.blobs, made.project_id, now=LATER)
    assert run is None
    assert "needed" in decision.reasons[0] or "start one" in decision.reasons[0]


def test_a_trained_champion_is_where_the_next_run_starts(made: Installation) -> None:
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        champion.blob = made.blobs.put(b"weights")
    for tile in made.tiles("train")[:2]:
        _mask(made, tile.id, disc())
    assert _snapshot(made)["start_model"] == champion.id


def test_labels_that_never_pause_start_a_run_all_the_same(made: Installation) -> None:
    for tile in made.tiles("train")[:2]:
        _mask(made, tile.id, disc())
    with made.database.transaction() as session:
        facts = facts_of(session, projects.get(session, made.project_id), now=LATER)
    assert facts.first_change_at is not None
    assert facts.last_change_at is not None
    assert facts.first_change_at < facts.last_change_at
    busy = Policy(debounce_s=3600, retrain_after_tiles=2).trigger
    late = facts.first_change_at + timedelta(seconds=3601)
    assert decide(late, dataclasses.replace(facts, last_change_at=late), busy).start


def test_the_first_run_from_the_starter_takes_the_whole_schedule(made: Installation) -> None:
    for tile in made.tiles("train")[:2]:
        _mask(made, tile.id, disc())
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        champion.kind, champion.blob = "starter", made.blobs.put(b"the starter")
    snapshot = _snapshot(made)
    assert (snapshot["start_model"], snapshot["full_schedule"], snapshot["encoder_blob"]) == (champion.id, True, None)
