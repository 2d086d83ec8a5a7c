"""A tile that was labelled in part comes back to the queue: from the first answer to a mask that holds both."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from sqlalchemy import select

from backend.actions.answer_tile import Answer, answer_tile, take_back
from backend.actions.change_champion import promote
from backend.actions.rank_queue import rank_queue
from backend.actions.register_images import RegisterItem, register
from backend.actions.show_tile import MAX_BOXES, class_map_of, read_shown, why_of
from backend.settings import Settings
from backend.store import leases, masks, predictions, projects, queue
from backend.store.pool import unranked
from backend.store.tables import Annotation, Mask, Model, QueueEntry, Region
from mpamatch.domain.classes import IGNORE
from mpamatch.domain.looks import Look
from mpamatch.files.images import encode_png
from mpamatch.files.masks import write_mask
from mpamatch.files.rasters import decode_raster
from tests.builders import Installation, add_model, installation, picture
from workers.jobs.predict import predict_due
from workers.parts import Parts

pytestmark = [pytest.mark.database, pytest.mark.torch]
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SIDE_PX = 320
FIRST, SECOND = (slice(40, 80), slice(40, 80)), (slice(220, 260), slice(220, 260))
HOLDER = "a"


class Silent:
    def sync(self, project_id: int, *, full: bool = False) -> None: ...

    def predict(self) -> None: ...


class InTwoMinds:
    """A model that says background, and is in two minds about some places."""

    places: ClassVar[tuple[Any, ...]] = (FIRST,)

    def reduction(self, image: np.ndarray, um_per_px: float | None = None) -> float:
        return 1.0

    def look(self, image: np.ndarray, um_per_px: float | None = None) -> Look:
        height, width = image.shape[:2]
        shares = np.stack([np.full((height, width), 0.99, np.float32), np.full((height, width), 0.01, np.float32)])
        for place in self.places:
            shares[:, *place] = 0.5
        return Look(shares, np.ones((3, 4, 4), np.float32))


class Models:
    def predictor(self, blob: str) -> InTwoMinds:
        return InTwoMinds()


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """One train tile and one audit tile of 320 px, looked at by a champion that is unsure of one place in each."""
    made = installation(database_url, tmp_path, train=0, audit=0)
    items = []
    for number, split in enumerate(("train", "audit")):
        path = tmp_path / f"large-{number}.png"
        path.write_bytes(encode_png(picture(number, SIDE_PX)))
        items.append(RegisterItem(path=path, group=f"case-{number}", split=split))
    register(made.database, made.blobs, made.project_id, items)
    next_champion(made, "m1")
    return made


def next_champion(made: Installation, version: str) -> None:
    model = add_model(made, version)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        row = session.get_one(Model, model.id)
        row.blob = "weights"
        promote(session, project, row, actor="test", now=NOW, provisional=False, why="")
    look(made)


def look(made: Installation) -> None:
    parts: Any = Parts(Settings(state=made.folder), made.database, made.blobs, made.keys, Silent(), "test:1:1.0")
    models: Any = Models()
    predict_due(parts, models, stop=lambda: False)
    rank_queue(made.database, made.project_id, blobs=made.blobs)


def entry(made: Installation) -> QueueEntry | None:
    """The train tile's, in the live order."""
    tile = made.tiles("train")[0]
    with made.database.transaction() as session:
        return queue.of_tiles(session, projects.get(session, made.project_id), [tile.id]).get(tile.id)


def regions(made: Installation) -> list[Region]:
    found = entry(made)
    assert found is not None
    with made.database.transaction() as session:
        return list(session.scalars(select(Region).where(Region.id.in_(found.region_ids))))


def answer(made: Installation, drawn: np.ndarray | None, *, scope: Any = "only the boxes", version: str) -> Annotation:
    """Take the train tile from the queue and answer; both answers are a holder's own."""
    tile = made.tiles("train")[0]
    with made.database.transaction() as session:
        held = leases.claim(session, made.project_id, holder=HOLDER, count=2, now=NOW, lease_s=60)
        attempt = next(row.attempt for row in held if row.tile_id == tile.id)
        for row in held:
            if row.tile_id != tile.id:
                leases.release(session, made.project_id, row.tile_id, holder=HOLDER, attempt=row.attempt, now=NOW)
    with made.database.transaction() as session:
        said = Answer(scope, None if drawn is None else write_mask(drawn), shown_version=version)
        project = projects.get(session, made.project_id)
        row = answer_tile(session, made.blobs, project, tile.id, said, holder=HOLDER, attempt=attempt, now=NOW)
    assert row.state == "present", row.problem
    return row


def known(made: Installation) -> tuple[Mask, np.ndarray]:
    tile = made.tiles("train")[0]
    with made.database.transaction() as session:
        mask = masks.newest_counting(session, tile.id)
    assert mask is not None
    return mask, decode_raster(made.blobs.get(mask.blob))


def drawn(*places: Any) -> np.ndarray:
    """Background with glands."""
    mask = np.zeros((SIDE_PX, SIDE_PX), np.uint8)
    for place in places:
        mask[place] = 1
    return mask


def test_a_tile_answered_in_part_comes_back_under_the_next_champion_and_its_mask_holds_both(
    made: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    tile, (first_box,) = made.tiles("train")[0], regions(made)
    answer(made, drawn(FIRST), version="m1")
    first_mask, first = known(made)
    assert 0 < first_mask.reviewed_share < 1
    rank_queue(made.database, made.project_id, blobs=made.blobs)
    found = entry(made)
    assert found is None or found.state == "done", "not twice under one champion"
    with made.database.transaction() as session:
        assert not unranked(session, projects.get(session, made.project_id))

    monkeypatch.setattr(InTwoMinds, "places", (FIRST, SECOND))
    next_champion(made, "m2")
    found = entry(made)
    assert found is not None
    assert (found.state, found.attempt) == ("open", 1)
    assert found.note is None
    (outside,) = regions(made)
    assert outside.x_px > first_box.x_px + first_box.width_px
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        shown = read_shown(session, project, "m2", [tile.id])[tile.id]
    in_view = class_map_of(made.blobs, shown)
    assert (in_view[FIRST] == 1).all(), "what is labelled is shown as it was labelled, whatever the model says"
    assert "as it was labelled" in why_of([], audit=False, shown=shown)
    assert len(shown.regions) == 1 <= MAX_BOXES

    answer(made, in_view | drawn(SECOND), version="m2")
    second_mask, both = known(made)
    assert second_mask.version == first_mask.version + 1
    assert (both[FIRST] == 1).all()
    assert (both[SECOND] == 1).all()
    assert (both[first != IGNORE] == first[first != IGNORE]).all()
    assert (both == IGNORE).any()
    assert second_mask.reviewed_share > first_mask.reviewed_share
    assert second_mask.said_blob is not None
    said = decode_raster(made.blobs.get(second_mask.said_blob))
    assert (said[FIRST] == IGNORE).all(), "what one person said stays apart from what is known"
    with made.database.transaction() as session:
        assert session.get_one(Mask, first_mask.id).withdrawn_at is None
        assert [m.blob for m in masks.current(session, made.project_id)] == [second_mask.blob]
    found = entry(made)
    assert found is not None
    assert found.state == "done"


def test_a_tile_where_nothing_is_unsure_outside_what_is_labelled_does_not_come_back(made: Installation) -> None:
    answer(made, drawn(FIRST), version="m1")
    next_champion(made, "m2")
    assert entry(made) is None


@pytest.mark.parametrize("how", ["whole tile", "artefact", "cannot tell"])
def test_a_tile_of_which_all_is_said_does_not_come_back(
    made: Installation, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    answer(made, drawn(FIRST) if how == "whole tile" else None, scope=how, version="m1")
    monkeypatch.setattr(InTwoMinds, "places", (FIRST, SECOND))
    next_champion(made, "m2")
    assert entry(made) is None


def test_an_answer_that_the_look_did_not_know_waits_for_the_next_one(
    made: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new champion looked before somebody answered on the old one's suggestion: its boxes know nothing of that."""
    monkeypatch.setattr(InTwoMinds, "places", (FIRST, SECOND))
    next_champion(made, "m2")
    answer(made, drawn(FIRST), version="m1")
    with made.database.transaction() as session:
        projects.get(session, made.project_id).ranked_model_id = None
    rank_queue(made.database, made.project_id, blobs=made.blobs)
    found = entry(made)
    assert found is None or found.state == "done"
    next_champion(made, "m3")
    assert [r.x_px > 150 for r in regions(made)] == [True]


def test_an_answer_taken_back_leaves_the_others_pixels_and_its_tile_is_asked_for_again(
    made: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = answer(made, drawn(FIRST), version="m1")
    _, first = known(made)
    monkeypatch.setattr(InTwoMinds, "places", (FIRST, SECOND))
    next_champion(made, "m2")
    other = answer(made, drawn(FIRST, SECOND), version="m2")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        take_back(session, made.blobs, project, other.id, actor=HOLDER, now=NOW + timedelta(seconds=1))
    assert (known(made)[1] == first).all()
    found = entry(made)
    assert found is not None
    assert found.state == "open"
    again = answer(made, drawn(FIRST, SECOND), version="m2")
    assert again.id != other.id
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        take_back(session, made.blobs, project, one.id, actor=HOLDER, now=NOW + timedelta(seconds=2))
    mask, left = known(made)
    assert mask.annotation_id == again.id
    assert (left[FIRST] == IGNORE).all(), "pixels of an answer that was taken back are known no more"
    assert (left[SECOND] == 1).all()


def test_audit_tiles_and_predictions_without_a_label_know_no_mask(made: Installation) -> None:
    answer(made, drawn(FIRST), version="m1")
    audit = made.tiles("audit")[0]
    part = np.full((SIDE_PX, SIDE_PX), IGNORE, np.uint8)
    part[FIRST] = 1
    with made.database.transaction() as session:
        masks.append(
            session,
            tile_id=audit.id,
            origin="annotated",
            blob=made.blobs.put(encode_png(part)),
            reviewed_share=0.1,
        )
    next_champion(made, "m2")
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
        row = predictions.of(session, audit.id, champion.id)
        mine = predictions.of(session, made.tiles("train")[0].id, champion.id)
    assert row is not None
    assert row.known_mask_id is None
    assert mine is not None
    assert mine.known_mask_id == known(made)[0].id
