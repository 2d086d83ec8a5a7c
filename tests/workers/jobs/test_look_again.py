"""Second looks: for whom, after what, how often; and what becomes of the order."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.actions.rank_queue import rank_queue
from backend.settings import Settings
from backend.store import predictions, projects, queue, second_looks
from backend.store.tables import Model, Prediction, SecondLook, Tile
from mpamatch.domain.policy import Policy
from mpamatch.errors import NotFound
from tests.builders import Installation, add_images, add_model, installation, predict_all
from tests.flows.untrained import untrained_model
from workers.champion import LoadedModels
from workers.jobs.look_again import look_again_due
from workers.jobs.predict import predict_due
from workers.jobs.sweep import sweep
from workers.jobs.sync import sync_project
from workers.parts import Parts

pytestmark = [pytest.mark.database, pytest.mark.torch]


class Woken:
    """Wake-ups that are counted."""

    def __init__(self) -> None:
        self.predicts = 0
        self.syncs: list[int] = []

    def sync(self, project_id: int, *, full: bool = False) -> None:
        self.syncs.append(project_id)

    def predict(self) -> None:
        self.predicts += 1

    def train(self) -> None: ...


class Again:
    """A model that could learn the more, the further to the right."""

    def second_look(self, image: np.ndarray, um_per_px: float | None = None) -> np.ndarray:
        return np.tile(np.linspace(0, 1, 16, dtype=np.float32), (16, 1))


class Models:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def predictor(self, blob: str) -> Again:
        if self.error is not None:
            raise self.error
        return Again()


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """A trained champion that has seen and ranked 12 train and 3 audit tiles; two heads of two get second looks."""
    policy = Policy(debounce_s=0, head_size=2, second_look_heads=2)
    made = installation(database_url, tmp_path, train=12, audit=3, policy=policy)
    _promote(made, "m1")
    return made


def _promote(made: Installation, version: str) -> Model:
    """Another champion, which has seen everything; ranked."""
    model = add_model(made, version)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.champion(session, project).state = "retired"
        session.flush()
        row = session.get_one(Model, model.id)
        row.state, row.blob = "champion", f"weights of {version}"
        project.champion_id = model.id
    predict_all(made, model, region_count=2)
    assert rank_queue(made.database, made.project_id)
    return model


def _parts(made: Installation, wakeups: Any = None) -> Parts:
    return Parts(Settings(state=made.folder), made.database, made.blobs, made.keys, wakeups or Woken(), "test:1:1.0")


def _look_again(made: Installation, *, models: Any = None, wakeups: Any = None, turn_s: float = 60.0) -> int:
    return look_again_due(_parts(made, wakeups), models or Models(), stop=lambda: False, turn_s=turn_s)


def _looked(made: Installation) -> list[int]:
    """Tiles that had a second look."""
    with made.database.transaction() as session:
        query = select(Prediction.tile_id).join(SecondLook, SecondLook.prediction_id == Prediction.id)
        return sorted(session.scalars(query))


def _first(made: Installation, count: int) -> Sequence[int]:
    """The first tiles of the live order that are no audit tiles."""
    with made.database.transaction() as session:
        listed = queue.listing(session, projects.get(session, made.project_id), 100)
    return [e.tile_id for e in listed if e.stratum != "audit"][:count]


def _region_counts(session: Session, model_id: int, tiles: Sequence[int]) -> dict[int, int]:
    """How many regions one model's prediction of each tile has."""
    made = {tile: predictions.of(session, tile, model_id) for tile in tiles}
    return {t: len(predictions.regions_of(session, [p.id])[p.id]) for t, p in made.items() if p is not None}


def _generation(made: Installation) -> int:
    return made.project().queue_generation


def test_the_first_entries_get_one_and_the_order_is_made_once_more(made: Installation) -> None:
    first = _first(made, 4)
    woken = Woken()
    assert _look_again(made, wakeups=woken) == 4
    assert _looked(made) == sorted(first)
    assert (woken.predicts, woken.syncs) == (0, [made.project_id])
    before = _generation(made)
    sync_project(_parts(made), made.project_id, full=False)
    assert _generation(made) == before + 1
    assert made.project().ranked_model_id == made.project().champion_id
    for _ in range(2):
        sync_project(_parts(made), made.project_id, full=True)
        assert _look_again(made) == 0
    assert _generation(made) == before + 1, "once"


def test_a_region_s_figure_is_the_mean_over_where_it_lies(made: Installation) -> None:
    _look_again(made)
    with made.database.transaction() as session:
        champion = projects.champion(session, made.project())
        found = second_looks.bald_of(session, champion.id)
        counts = _region_counts(session, champion.id, list(found))
    assert len(found) == 4
    for tile, bald in found.items():
        assert len(bald) == counts[tile] == 2
        # x from 10 to 30 of 64 px touches cells 2 to 7 of 16
        assert bald == pytest.approx([np.linspace(0, 1, 16)[2:8].mean()] * 2, abs=1e-6)
    with made.database.transaction() as session:
        assert second_looks.bald_of(session, champion.id + 1) == {}
        one = min(found)
        assert second_looks.bald_of(session, champion.id, [one]) == {one: found[one]}


def test_a_new_champion_s_first_entries_are_looked_at_again(made: Installation) -> None:
    _look_again(made)
    sync_project(_parts(made), made.project_id, full=False)
    _promote(made, "m2")
    assert _look_again(made) == 4
    with made.database.transaction() as session:
        assert session.scalar(select(func.count()).select_from(SecondLook)) == 8


def test_more_tiles_under_the_same_champion_do_not_begin_it_anew(made: Installation) -> None:
    _look_again(made)
    sync_project(_parts(made), made.project_id, full=False)
    add_images(made, train=5, audit=0, masked=False, first=100)
    with made.database.transaction() as session:
        champion = projects.champion(session, made.project())
    predict_all(made, champion, region_count=1)
    assert rank_queue(made.database, made.project_id)
    assert _look_again(made) == 0


def test_nothing_is_due_before_there_is_an_order_under_a_blank_model_or_where_nobody_wants_it(
    database_url: str, tmp_path: Path
) -> None:
    made = installation(database_url, tmp_path, train=3, audit=0, policy=Policy(second_look_heads=0))
    with made.database.transaction() as session:
        champion = projects.champion(session, made.project())
    predict_all(made, champion)
    assert rank_queue(made.database, made.project_id)
    assert _look_again(made) == 0  # blank
    _promote(made, "m1")
    assert _look_again(made) == 0  # none wanted
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.change_policy(session, project, {"second_look_heads": 1}, actor="test")
        project.ranked_model_id = None
    assert _look_again(made) == 0  # no order
    assert rank_queue(made.database, made.project_id)
    assert _look_again(made) == 3


def test_somebody_who_waits_for_a_prediction_does_not_wait_for_second_looks(made: Installation) -> None:
    woken = Woken()
    assert _look_again(made, wakeups=woken, turn_s=0.0) == 0
    assert (woken.predicts, woken.syncs) == (1, [])
    assert _look_again(made) == 4


def test_a_worker_takes_what_another_one_does_not_hold_and_the_order_waits_for_both(made: Installation) -> None:
    parts = _parts(made)
    with made.database.transaction() as session:
        held = second_looks.claim_due(session, now=parts.now(), holder="other:1:1.0", lease_s=60)
    assert held is not None
    assert held.tile_id == _first(made, 1)[0]
    assert _look_again(made) == 3
    before = _generation(made)
    sync_project(parts, made.project_id, full=False)
    assert _generation(made) == before
    with made.database.transaction() as session:
        assert second_looks.keep(session, held.prediction_id, [0.1, 0.2])
        assert not second_looks.keep(session, held.prediction_id, [0.3, 0.4]), "it never changes"
    sync_project(parts, made.project_id, full=False)
    assert _generation(made) == before + 1


def test_claims_are_given_back(made: Installation) -> None:
    _look_again(made)
    with made.database.transaction() as session:
        assert session.scalar(select(func.count()).where(Tile.lease_until.is_not(None))) == 0


def test_a_picture_that_is_lost_is_set_aside_and_the_next_tile_takes_its_place(made: Installation) -> None:
    first = _first(made, 5)
    tile = next(t for t in made.tiles() if t.id == first[0])
    made.blobs.path(tile.png_blob).unlink()
    assert _look_again(made) == 3
    before = _generation(made)
    sync_project(_parts(made), made.project_id, full=False)
    assert _generation(made) == before + 1
    assert first[0] not in _first(made, 20)


def test_a_model_that_cannot_be_loaded_is_not_waited_for(made: Installation) -> None:
    assert _look_again(made, models=Models(NotFound("blob weights", "is missing"))) == 0
    assert _looked(made) == []
    before = _generation(made)
    assert _look_again(made) == 0
    sync_project(_parts(made), made.project_id, full=False)
    assert _generation(made) == before


def test_one_that_fails_is_tried_again_after_its_lease(made: Installation) -> None:
    assert _look_again(made, models=Models(RuntimeError("odd"))) == 0
    assert _look_again(made) == 0, "all are claimed"
    with made.database.transaction() as session:
        for tile in session.scalars(select(Tile)):
            tile.lease_until = None
    assert _look_again(made) == 4


def test_the_sweep_wakes_for_second_looks_while_any_is_due(made: Installation) -> None:
    woken = Woken()
    sweep(_parts(made, woken))
    assert woken.predicts == 1
    _look_again(made)
    woken = Woken()
    sweep(_parts(made, woken))
    assert woken.predicts == 0


def test_a_real_model_predicts_is_ranked_looks_again_and_is_ranked_once_more(made: Installation) -> None:
    model = add_model(made, "m2")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.champion(session, project).state = "retired"
        session.flush()
        row = session.get_one(Model, model.id)
        row.blob = made.blobs.put(untrained_model(projects.classes_of(project)))
        row.state, project.champion_id = "champion", row.id
    models = LoadedModels(made.blobs, made.folder / "cache", "cpu")
    parts = _parts(made)
    assert predict_due(parts, models, stop=lambda: False) == 15
    sync_project(parts, made.project_id, full=False)
    before = _generation(made)
    assert look_again_due(parts, models, stop=lambda: False, turn_s=60.0) == 4
    sync_project(parts, made.project_id, full=False)
    assert _generation(made) == before + 1
    with made.database.transaction() as session:
        found = second_looks.bald_of(session, model.id)
        named = predictions.embedding_blobs(session, model.id, _first(made, 4))
        counts = _region_counts(session, model.id, list(found))
    assert all(0 < gain <= 1 for bald in found.values() for gain in bald)
    assert len(counts) == 4
    assert set(counts.values()) == {len(bald) for bald in found.values()} == {1}
    for _, rows in predictions.embeddings_of(made.blobs, named):
        assert rows.shape == (2, 960)
        assert np.linalg.norm(rows.astype(np.float32), axis=1) == pytest.approx(1, abs=1e-2)


def test_a_prediction_that_is_dropped_takes_its_second_look_along(made: Installation) -> None:
    _look_again(made)
    with made.database.transaction() as session:
        lost = session.scalars(select(SecondLook)).first()
        assert lost is not None
        predictions.forget(session, lost.prediction_id)
    assert len(_looked(made)) == 3
