from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from backend.actions.judge_candidate import judge_candidate
from backend.actions.rank_queue import rank_queue
from backend.clock import utc_now
from backend.settings import Settings
from backend.store import images, masks, predictions, projects, queue, runs
from backend.store.tables import Event, Image, Model, Run, Tile
from mpamatch.domain.looks import Look, embeddings_of, regions_of
from mpamatch.errors import NotFound
from mpamatch.files.images import read_image
from tests.builders import Installation, add_images, add_model, installation
from workers.jobs.predict import BATCH, predict_due
from workers.parts import Parts

pytestmark = [pytest.mark.database, pytest.mark.torch]


class Silent:
    """Wake-ups that nobody hears; those to the predict workers are counted."""

    calls = 0

    def sync(self, project_id: int, *, full: bool = False) -> None: ...

    def predict(self) -> None:
        self.calls += 1


class Sure:
    """A model that says background everywhere, and is in two minds about the middle where ``doubt`` says so."""

    doubt = False

    def reduction(self, image: np.ndarray, um_per_px: float | None = None) -> float:
        return 1.0

    def look(self, image: np.ndarray, um_per_px: float | None = None) -> Look:
        height, width = image.shape[:2]
        shares = np.stack([np.full((height, width), 0.99, np.float32), np.full((height, width), 0.01, np.float32)])
        if self.doubt:
            shares[:, 20:40, 20:40] = 0.5
        tokens = image[:48:16, :48:16].transpose(2, 0, 1).astype(np.float32)
        return Look(shares, tokens)


class Models:
    def __init__(self, broken: str = "") -> None:
        self.broken = broken

    def predictor(self, blob: str) -> Sure:
        if blob == self.broken:
            raise NotFound(f"blob {blob}", "is missing")
        return Sure()


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """A project whose champion is a trained model; no prediction is made yet."""
    made = installation(database_url, tmp_path, train=4, audit=4, masked=True)
    model = add_model(made, "m1")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.champion(session, project).state = "retired"
        session.flush()
        row = session.get_one(Model, model.id)
        row.state, row.blob = "champion", "weights"
        project.champion_id = model.id
    add_images(made, train=3, audit=0, masked=False, first=50)
    return made


def _predict(made: Installation, broken: str = "", wakeups: Any = None) -> int:
    wakeups = wakeups or Silent()
    parts = Parts(Settings(state=made.folder), made.database, made.blobs, made.keys, wakeups, "test:1:1.0")
    models: Any = Models(broken)
    return predict_due(parts, models, stop=lambda: False)


def _missing(made: Installation) -> int:
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        return predictions.missing_for(session, made.project_id, champion.id, live_tasks_only=False)


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_picture_that_cannot_be_read_is_set_aside_and_the_rest_is_ranked(made: Installation, how: str) -> None:
    tile = made.tiles("train")[-1]
    path = made.blobs.path(tile.png_blob)
    content = path.read_bytes()
    path.unlink() if how == "missing" else path.write_bytes(b"x" * len(content))
    _predict(made)
    assert _missing(made) == 0
    assert rank_queue(made.database, made.project_id)
    with made.database.transaction() as session:
        image = session.get_one(Image, tile.image_id)
        assert (image.state, image.problem is not None and how in image.problem) == ("quarantined", True)
        assert session.query(Event).filter(Event.what == "image quarantined").count() == 1
        assert session.get_one(Tile, tile.id).lease_until is None
        listed = queue.listing(session, projects.get(session, made.project_id), 100)
    assert {e.tile_id for e in listed} == {t.id for t in made.tiles("train")[4:-1]}

    add_images(made, train=3, audit=0, masked=False, first=50)  # registering the whole file again mends it
    assert made.blobs.get(tile.png_blob) == content
    _predict(made)
    assert rank_queue(made.database, made.project_id)
    with made.database.transaction() as session:
        listed = queue.listing(session, projects.get(session, made.project_id), 100)
    assert tile.id in {e.tile_id for e in listed}


def test_a_prediction_is_kept_with_its_regions_and_what_they_look_like(
    made: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sure, "doubt", True)
    _predict(made)
    tiles = made.tiles()
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        named = predictions.embedding_blobs(session, champion.id, [t.id for t in tiles[:3]])
        rows = {t.id: predictions.of(session, t.id, champion.id) for t in tiles[:3]}
        regions = predictions.regions_of(session, [row.id for row in rows.values() if row is not None])
    assert set(named) == {t.id for t in tiles[:3]}
    found = dict(predictions.embeddings_of(made.blobs, named))
    for tile in tiles[:3]:
        (region,) = regions[rows[tile.id].id]
        assert region.class_scores == pytest.approx([0.5, 0.5])
        assert region.perimeter_px == 80
        seen = Sure().look(read_image(made.blobs.get(tile.png_blob)))
        expected = embeddings_of(seen, regions_of(seen, read_image(made.blobs.get(tile.png_blob)), 0.95, reduction=1.0))
        assert np.array_equal(found[tile.id], expected.astype(np.float16))
        assert found[tile.id].shape == (2, 3)
    with made.database.transaction() as session:
        assert predictions.embedding_blobs(session, champion.id + 1, [tiles[0].id]) == {}


@pytest.mark.parametrize(("name", "regions"), [("background", 0), ("gland", 7)])
def test_a_class_s_own_tau_counts_where_that_class_is_predicted(
    made: Installation, monkeypatch: pytest.MonkeyPatch, name: str, regions: int
) -> None:
    """The middle is background at a confidence of 0.5, which is not below 0.5."""
    monkeypatch.setattr(Sure, "doubt", True)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.change_policy(session, project, {"tau_by_class": {name: 0.5}}, actor="test")
    _predict(made)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        tiles = made.tiles("train")
        assert len(tiles) == 7
        rows = [predictions.of(session, t.id, champion.id) for t in tiles]
        found = predictions.regions_of(session, [row.id for row in rows if row is not None])
    assert sum(len(mine) for mine in found.values()) == regions


def test_embeddings_that_are_lost_are_left_out_and_the_others_are_read(made: Installation) -> None:
    _predict(made)
    tiles = made.tiles("train")[:2]
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        named = predictions.embedding_blobs(session, champion.id, [t.id for t in tiles])
    made.blobs.path(named[tiles[0].id]).unlink()
    assert [tile_id for tile_id, _ in predictions.embeddings_of(made.blobs, named)] == [tiles[1].id]


def test_more_than_a_batch_wakes_one_more_worker_and_less_wakes_none(made: Installation) -> None:
    many, few = Silent(), Silent()
    assert _predict(made, wakeups=many) > 2 * BATCH
    assert many.calls == 1, "once, however much is due"
    add_images(made, train=BATCH - 1, audit=0, masked=False, first=80)
    assert _predict(made, wakeups=few) == BATCH - 1
    assert few.calls == 0


def test_an_audit_picture_that_cannot_be_read_does_not_hold_up_a_verdict(made: Installation) -> None:
    _predict(made)
    run_id = _judging(made)
    made.blobs.path(made.tiles("audit")[0].png_blob).unlink()
    _predict(made)
    assert judge_candidate(made.database, made.blobs, run_id, now=utc_now()) is not None
    with made.database.transaction() as session:
        assert session.get_one(Run, run_id).state == "done"
        assert sum(m.split == "audit" for m in masks.current(session, made.project_id)) == 3


def test_a_model_that_cannot_be_read_sets_no_image_aside(made: Installation) -> None:
    _predict(made)
    run_id = _judging(made)
    _predict(made, broken="new weights")
    with made.database.transaction() as session:
        assert session.get_one(Run, run_id).state == "failed"
        assert images.counts(session, made.project_id)["quarantined"] == 0


def _whole_m0(made: Installation) -> None:
    """A champion before this one, which a rollback would return to."""
    with made.database.transaction() as session:
        first, second = session.scalars(select(Model).order_by(Model.id)).all()
        second.previous_id = first.id


def test_a_champion_that_cannot_be_read_steps_down_for_the_one_before_it(made: Installation) -> None:
    _whole_m0(made)
    _predict(made, broken="weights")
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        states = {m.version: m.state for m in session.scalars(select(Model))}
        assert states == {champion.version: "champion", "m1": "rejected"}
        assert session.query(Event).filter(Event.what == "model given up").count() == 1
        assert images.counts(session, made.project_id)["quarantined"] == 0
    _predict(made)
    assert _missing(made) == 0


def test_a_champion_that_cannot_be_read_and_has_none_before_it_stays(made: Installation) -> None:
    _predict(made, broken="weights")
    with made.database.transaction() as session:
        assert projects.champion(session, projects.get(session, made.project_id)).version == "m1"


def test_an_earlier_champion_that_cannot_be_read_does_not_hold_up_a_verdict(made: Installation) -> None:
    run_id = _judging(made)
    with made.database.transaction() as session:
        session.add(
            Model(project_id=made.project_id, version="m9", kind="trained", state="retired", blob="old weights")
        )
    _predict(made, broken="old weights")
    assert judge_candidate(made.database, made.blobs, run_id, now=utc_now()) is not None


def _judging(made: Installation) -> int:
    with made.database.transaction() as session:
        run = Run(
            project_id=made.project_id,
            number=1,
            trigger="manual",
            reasons=[],
            recipe={},
            recipe_hash="",
            snapshot_blob="",
            version="m2",
            state="judging",
        )
        session.add(run)
        session.flush()
        session.add(
            Model(
                project_id=made.project_id,
                version="m2",
                kind="trained",
                state="candidate",
                blob="new weights",
                run_id=run.id,
            )
        )
        assert runs.open_run(session, made.project_id) is not None
        return run.id
