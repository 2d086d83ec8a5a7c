"""What a ranking reads, against the same rows read one by one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select, update

from backend.actions.keep_prediction import keep_prediction
from backend.store import masks, predictions, projects, second_looks
from backend.store.pool import labelled, read_pool
from backend.store.tables import Annotation, Image, Model, Prediction, Region, Tile
from mpamatch.domain.pool import Pool
from mpamatch.domain.regions import Region as FoundRegion
from mpamatch.domain.tiling import Box
from tests.builders import Installation, add_model, installation

pytestmark = pytest.mark.database
RING = ((10.0, 10.0), (30.0, 10.0), (30.0, 30.0), (10.0, 30.0), (10.0, 10.0))
FOUND = FoundRegion(Box(10, 10, 20, 20), (RING,), 400, 0.5, 0.2, 0.3, 0.1, 1, 0.6, class_scores=(0.1, 0.4))


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    return installation(database_url, tmp_path, train=5, audit=2)


@pytest.fixture
def model(made: Installation) -> Model:
    """A model that has seen every tile: another number of regions on each, another share of foreground."""
    model = add_model(made, "m1")
    for number, tile in enumerate(made.tiles()):
        shown = np.zeros((64, 64), np.uint8)
        shown[: number * 8] = 1
        regions = [replace(FOUND, uncertainty=k / 10, area_px=100 + k) for k in range(number % 3)]
        keep_prediction(
            made.database,
            made.blobs,
            tile_id=tile.id,
            model_id=model.id,
            class_map=shown,
            confidence=np.ones((64, 64), np.float32),
            regions=tuple(regions),
        )
    return model


def read(made: Installation, model: Model) -> Pool:
    with made.database.transaction() as session:
        return read_pool(session, projects.get(session, made.project_id), model.id)


def test_every_column_is_what_the_rows_say(made: Installation, model: Model) -> None:
    with made.database.transaction() as session:
        session.execute(update(Image).values(um_per_px=0.25))
        session.execute(update(Tile).where(Tile.id == made.tiles()[0].id).values(look_hash=-5))
        session.execute(update(Image).where(Image.id == made.tiles()[1].image_id).values(um_per_px=None))
    pool = read(made, model)
    tiles = {t.id: t for t in made.tiles()}
    with made.database.transaction() as session:
        images = {i.id: i for i in session.scalars(select(Image))}
        rows = session.execute(
            select(Region, Prediction.tile_id).join(Prediction, Prediction.id == Region.prediction_id)
        ).all()
    assert pool.tile_ids.tolist() == sorted(tiles)
    for place, tile_id in enumerate(pool.tile_ids.tolist()):
        tile, image = tiles[tile_id], images[tiles[tile_id].image_id]
        assert pool.images[place] == image.id
        assert pool.group_names[pool.groups[place]] == image.group_name
        assert pool.audit[place] == (image.split == "audit")
        assert np.isnan(pool.um_per_px[place]) if image.um_per_px is None else pool.um_per_px[place] == 0.25
        assert pool.foreground[place] == pytest.approx(place * 8 / 64)
        assert pool.looks[place] == (tile.look_hash or 0) % 2**64
        ours = sorted((r for r, t in rows if t == tile_id), key=lambda r: r.id) if image.split == "train" else []
        begin, end = pool.starts[place], pool.starts[place + 1]
        assert pool.regions.ids[begin:end].tolist() == [r.id for r in ours]
        for name in ("area_px", "uncertainty", "margin", "impurity", "disagreement", "mean_confidence", "perimeter_px"):
            assert getattr(pool.regions, name)[begin:end].tolist() == [getattr(r, name) for r in ours]
        assert pool.regions.predicted_class[begin:end].tolist() == [1] * len(ours)
    assert pool.regions.class_scores is not None
    assert pool.regions.class_scores.tolist() == pytest.approx(np.tile([0.1, 0.4], (len(pool.regions), 1)))


def test_regions_of_earlier_versions_have_no_class_scores_and_no_outline(made: Installation, model: Model) -> None:
    with made.database.transaction() as session:
        first = session.scalars(select(Region.id).order_by(Region.id)).first()
        session.execute(update(Region).where(Region.id == first).values(class_scores=[], perimeter_px=None))
    regions = read(made, model).regions
    assert regions.class_scores is not None
    assert np.isnan(regions.class_scores[0]).all()
    assert np.isnan(regions.perimeter_px[0])
    assert not np.isnan(regions.class_scores[1:]).any()
    with made.database.transaction() as session:
        session.execute(update(Region).values(class_scores=[]))
    assert read(made, model).regions.class_scores is None


def test_second_looks_are_those_of_the_regions_in_their_order(made: Installation, model: Model) -> None:
    third, fifth = made.tiles()[2], made.tiles()[4]
    with made.database.transaction() as session:
        second_looks.keep(session, predictions.of(session, third.id, model.id).id, [0.25, 0.5])
        second_looks.keep(session, predictions.of(session, fifth.id, model.id).id, [0.1, 0.2, 0.3])  # of other regions
    pool = read(made, model)
    begin, end = pool.starts[2], pool.starts[3]
    assert pool.regions.bald[begin:end].tolist() == [0.25, 0.5]
    assert np.isnan(np.delete(pool.regions.bald, slice(begin, end))).all()


def test_what_is_labelled_answered_or_set_aside_is_not_asked_for(made: Installation, model: Model) -> None:
    masked, answered, artefact, aside, left = made.tiles("train")
    with made.database.transaction() as session:
        masks.append(session, tile_id=masked.id, origin="annotated", blob=made.blobs.put(b"x"), reviewed_share=0.1)
        skip = {"ls_annotation_id": 1, "ls_task_id": 1, "result_blob": "none", "state": "skipped"}
        session.add(Annotation(project_id=made.project_id, tile_id=answered.id, updated_at=datetime.now(UTC), **skip))
        session.get_one(Tile, artefact.id).state = "artefact"
        session.get_one(Image, aside.image_id).state = "quarantined"
    pool = read(made, model)
    assert pool.tile_ids.tolist() == sorted([left.id, *(t.id for t in made.tiles("audit"))])
    assert set(pool.regions.tile_ids.tolist()) <= {left.id}


def test_another_models_regions_and_another_projects_tiles_are_not_read(made: Installation, model: Model) -> None:
    other = add_model(made, "m2")
    assert len(read(made, other)) == 0
    with made.database.transaction() as session:
        projects.create(
            session, title="Another", classes=projects.classes_of(made.project()), policy=made_policy(made), seed=2
        )
    assert len(read(made, model)) == 7


def made_policy(made: Installation):
    return projects.policy_of(made.project())


def test_what_is_labelled_is_told_with_its_hash_and_audit_tiles_are_not(made: Installation) -> None:
    first, second = made.tiles("train")[:2]
    audit = made.tiles("audit")[0]
    with made.database.transaction() as session:
        session.execute(update(Tile).where(Tile.id == second.id).values(look_hash=None))
        for tile in (first, second, audit):
            blob = made.blobs.put(str(tile.id).encode())
            masks.append(session, tile_id=tile.id, origin="annotated", blob=blob, reviewed_share=1.0)
    with made.database.transaction() as session:
        found = labelled(session, made.project_id)
    looks = dict(zip(found.tile_ids.tolist(), found.looks.tolist(), strict=True))
    assert looks == {first.id: first.look_hash % 2**64, second.id: 0}
