from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, select, update

from backend.actions import rank_queue as rank_queue_module
from backend.actions import show_tile
from backend.actions.fit_costs import COUNTED_BY, see_costs
from backend.actions.keep_prediction import keep_prediction
from backend.actions.rank_queue import REVIEW, rank_queue
from backend.actions.register_images import RegisterItem, register
from backend.actions.tally_labels import tally_labels
from backend.store import masks, predictions, projects, queue, second_looks
from backend.store.tables import Annotation, Effort, Mask, Model, QueueEntry, Task, Tile
from backend.store.tables import Region as StoredRegion
from mpamatch.domain.breakdown import breakdown
from mpamatch.domain.clicks import clicks_to_draw
from mpamatch.domain.cost import CostModel
from mpamatch.domain.reasons import reasons
from mpamatch.domain.record import recompute
from mpamatch.domain.regions import Region, find_regions
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput
from mpamatch.files.images import encode_png
from mpamatch.files.rasters import encode_raster
from tests.backend.actions.tallied_project import label
from tests.builders import Installation, add_images, add_model, disc, installation, picture, predict_all

pytestmark = pytest.mark.database
LABELS = 20  # as many as a fit takes


def _champion(made: Installation) -> None:
    with made.database.transaction() as session:
        model = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, model)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    made = installation(database_url, tmp_path, train=12, audit=3)
    _champion(made)
    return made


def _listed(made: Installation) -> list[queue.Listed]:
    with made.database.transaction() as session:
        return queue.listing(session, projects.get(session, made.project_id), 100)


def test_nothing_is_ranked_before_the_champion_has_seen_every_tile(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path)
    assert rank_queue(made.database, made.project_id) is False


def test_a_blank_champion_spreads_over_cases_with_audit_tiles_between(made: Installation) -> None:
    assert rank_queue(made.database, made.project_id) is True
    listed = _listed(made)
    assert [e.rank for e in listed] == list(range(1, 16))
    assert [e.rank for e in listed if e.stratum == "audit"] == [5, 10, 15]
    assert all((e.split == "audit") == (e.stratum == "audit") for e in listed)


def test_ranking_again_without_news_makes_no_new_generation(made: Installation) -> None:
    rank_queue(made.database, made.project_id)
    assert rank_queue(made.database, made.project_id) is False
    assert made.project().queue_generation == 1


def test_new_images_enter_the_order_and_what_label_studio_holds_stays_leased(made: Installation) -> None:
    rank_queue(made.database, made.project_id)
    held = _listed(made)[0].tile_id
    with made.database.transaction() as session:
        session.add(Task(project_id=made.project_id, tile_id=held, ls_task_id=5, origin="head"))
    add_images(made, train=3, audit=0, masked=False, first=50)
    assert rank_queue(made.database, made.project_id) is False  # the champion has not seen them yet
    _champion(made)
    assert rank_queue(made.database, made.project_id) is True
    listed = {e.tile_id: e for e in _listed(made)}
    assert len(listed) == 18
    assert listed[held].state == "leased"
    assert sum(e.state == "leased" for e in listed.values()) == 1


def test_another_champion_re_orders_by_its_own_regions(made: Installation) -> None:
    rank_queue(made.database, made.project_id)
    _serve(made)
    assert rank_queue(made.database, made.project_id) is True
    listed = _listed(made)
    assert {e.stratum for e in listed} <= {"score", "class", "exploration", "audit"}
    assert "below 0.95" in " ".join(listed[0].reasons)


def test_no_two_entries_and_no_label_of_an_image_share_a_pixel(database_url: str, tmp_path: Path) -> None:
    """Whatever is asked for, a tile or regions of it: nobody is asked twice about one place."""
    made = installation(database_url, tmp_path, train=0, audit=0)
    path = tmp_path / "wide.png"
    path.write_bytes(encode_png(picture(1, size=2100)[:700]))
    register(made.database, made.blobs, made.project_id, [RegisterItem(path, "a", split="train")])
    tiles = made.tiles()
    assert len(tiles) > 1
    first = tiles[1]
    with made.database.transaction() as session:
        blob = made.blobs.put(encode_raster(np.zeros(first.size_px[::-1], np.uint8)))
        masks.append(session, tile_id=first.id, origin="annotated", blob=blob, reviewed_share=1.0)
    model = _made_champion(made, "m1")
    for tile in tiles:
        doubt = np.full((2, *tile.size_px[::-1]), 0.5, np.float32)
        keep_prediction(
            made.database,
            made.blobs,
            tile_id=tile.id,
            model_id=model.id,
            class_map=doubt.argmax(axis=0).astype(np.uint8),
            confidence=doubt[0],
            regions=find_regions(doubt[:, ::2, ::2], 0.95, scale=2.0, size_px=tile.size_px),
        )
    assert rank_queue(made.database, made.project_id) is True
    with made.database.transaction() as session:
        rows = session.execute(select(QueueEntry, Tile).join(Tile, Tile.id == QueueEntry.tile_id)).all()
        boxes = {r.id: Box(r.x_px, r.y_px, r.width_px, r.height_px) for r in session.scalars(select(StoredRegion))}
        asked = [(tile, [boxes[i] for i in entry.region_ids]) for entry, tile in rows]
    assert first.id not in {tile.id for tile, _ in asked}
    assert all(regions for _, regions in asked)
    times = np.zeros((700, 2100), np.uint8)
    times[_pixels(first.box)] += 1
    for tile, regions in asked:
        mine = np.zeros(times.shape, bool)
        for box in regions:
            mine[_pixels(Box(tile.x_px + box.x_px, tile.y_px + box.y_px, box.width_px, box.height_px))] = True
        times += mine
    assert times.max() == 1


def _pixels(box: Box) -> tuple[slice, slice]:
    return slice(box.y_px, box.y_px + box.height_px), slice(box.x_px, box.x_px + box.width_px)


def _made_champion(made: Installation, version: str) -> Model:
    """Another champion, which has seen nothing yet."""
    model = add_model(made, version)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.champion(session, project).state = "retired"
        session.flush()
        session.get_one(Model, model.id).state = "champion"
        project.champion_id = model.id
    return model


def _serve(made: Installation) -> None:
    """Another champion, which has seen every tile."""
    predict_all(made, _made_champion(made, "m1"))


def test_every_kept_choice_can_be_computed_again_and_says_why(made: Installation) -> None:
    _serve(made)
    assert rank_queue(made.database, made.project_id) is True
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        entries = queue.of_tiles(session, project, [t.id for t in made.tiles()])
        assert len(entries) == 15
        for entry in entries.values():
            assert recompute(entry.record) == pytest.approx(entry.score, abs=1e-12)
            assert entry.reasons == reasons(entry.record)
        asked = next(e for e in entries.values() if e.stratum == "class")
        # The outline of 20 x 20 px: one click to begin, one for each 12 px of 80.
        assert asked.clicks == pytest.approx(1 + 80 / 12)
        assert asked.seconds == pytest.approx(3 + 1.1 * asked.clicks)
        assert (asked.uncertainty, asked.impurity, asked.distance, asked.bald) == (0.5, 0.3, None, None)
        assert asked.record.ranked_by.policy.strategy == "mpamatch"


def test_an_order_is_made_anew_when_its_strategy_changes_and_not_for_other_knobs(made: Installation) -> None:
    _serve(made)
    rank_queue(made.database, made.project_id)
    for changes, anew in (({"debounce_s": 99.0}, False), ({"strategy": "random"}, True), ({"tau": 0.9}, True)):
        with made.database.transaction() as session:
            projects.change_policy(session, projects.get(session, made.project_id), changes, actor="test")
        assert rank_queue(made.database, made.project_id) is anew
    assert {e.stratum for e in _listed(made)} == {"exploration", "audit"}


def test_the_tau_of_a_class_makes_a_new_order_too_and_its_reasons_name_it(made: Installation) -> None:
    _serve(made)
    rank_queue(made.database, made.project_id)
    for taus, anew in (({"gland": 0.7}, True), ({"gland": 0.7}, False), ({}, True)):
        with made.database.transaction() as session:
            project = projects.get(session, made.project_id)
            projects.change_policy(session, project, {"tau_by_class": taus}, actor="test")
        assert rank_queue(made.database, made.project_id) is anew
        said = " ".join(word for e in _listed(made) for word in e.reasons)
        assert ("below 0.70" in said) is bool(taus)
        assert ("below 0.95" in said) is (not taus)
    with pytest.raises(BadInput, match="known classes: background, gland"):
        projects.changed_policy(made.project(), {"tau_by_class": {"glnd": 0.7}})


def test_the_same_rows_are_ranked_the_same_way_again(made: Installation) -> None:
    model = _made_champion(made, "m1")
    rng = np.random.default_rng(0)
    vectors = {tile.id: rng.normal(size=(3, 4)) for tile in made.tiles()}
    _predict(made, model, lambda tile: {"embeddings": vectors[tile]})
    orders = []
    for _ in range(2):
        assert rank_queue(made.database, made.project_id, blobs=made.blobs) is True
        with made.database.transaction() as session:
            project = projects.get(session, made.project_id)
            rows = queue.head(session, project, 100)
            orders.append([(e.tile_id, e.region_ids, e.stratum, e.score, e.noise, e.propensity) for e in rows])
            # Written anew, the rows stand in another order in the table.
            session.execute(update(StoredRegion).where(StoredRegion.id % 2 == 0).values(margin=StoredRegion.margin))
            project.ranked_model_id = None
    assert orders[0] == orders[1]
    assert len(orders[0]) == 15


def _labels(made: Installation, *, seconds_fixed: float, seconds_per_click: float) -> None:
    """Labels of the last train tiles that took so long, in place of all before."""
    with made.database.transaction() as session:
        session.execute(delete(Effort))
        session.execute(delete(Mask))
        session.execute(delete(Annotation))
    for number, tile in enumerate(made.tiles("train")[-LABELS:]):
        clicks = clicks_to_draw(disc(radius=5 + number), COUNTED_BY)
        label(made, tile, disc(radius=5 + number), seconds=seconds_fixed + seconds_per_click * clicks)
    while tally_labels(made.database, made.blobs, made.project_id, limit=100):
        pass


def _costs(made: Installation) -> CostModel:
    with made.database.transaction() as session:
        found = see_costs(session, projects.get(session, made.project_id)).ranked_by
    assert found is not None
    return found


def test_an_order_is_ranked_by_what_labels_took_and_anew_when_that_changes_enough_to_matter(
    database_url: str, tmp_path: Path
) -> None:
    made = installation(database_url, tmp_path, train=6 + LABELS, audit=3)
    _champion(made)
    _serve(made)
    rank_queue(made.database, made.project_id)
    assert _costs(made) == CostModel()
    _labels(made, seconds_fixed=3.2, seconds_per_click=1.2)
    assert rank_queue(made.database, made.project_id) is False  # a tenth more: not worth a new order
    assert _costs(made) == CostModel()

    _labels(made, seconds_fixed=8.0, seconds_per_click=3.0)
    assert rank_queue(made.database, made.project_id) is True
    assert (_costs(made).seconds_fixed, _costs(made).seconds_per_click) == pytest.approx((8.0, 3.0), abs=0.01)
    assert rank_queue(made.database, made.project_id) is False
    entries = [entry for entry in _entries(made).values() if entry.stratum == "class"]
    assert entries
    for entry in entries:
        assert entry.seconds == pytest.approx(8.0 + 3.0 * entry.clicks, rel=1e-3)
        assert entry.seconds == pytest.approx(breakdown(entry.record).seconds)
        assert entry.cost == pytest.approx(breakdown(entry.record).cost)
        assert recompute(entry.record) == pytest.approx(entry.score, abs=1e-12)

    # An order that is made for another reason takes the newest fit along, however little it moved.
    _labels(made, seconds_fixed=8.5, seconds_per_click=3.1)
    with made.database.transaction() as session:
        projects.change_policy(session, projects.get(session, made.project_id), {"tau": 0.9}, actor="test")
    assert rank_queue(made.database, made.project_id) is True
    assert _costs(made).seconds_fixed == pytest.approx(8.5, abs=0.01)


def test_costs_make_no_order_anew_where_they_have_no_say(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path, train=2 + LABELS, audit=2)
    _champion(made)
    rank_queue(made.database, made.project_id)
    _labels(made, seconds_fixed=8.0, seconds_per_click=3.0)
    assert rank_queue(made.database, made.project_id) is False  # a first spread asks no model
    with made.database.transaction() as session:
        projects.change_policy(session, projects.get(session, made.project_id), {"strategy": "random"}, actor="test")
    _serve(made)
    assert rank_queue(made.database, made.project_id) is True
    _labels(made, seconds_fixed=2.0, seconds_per_click=0.5)
    assert rank_queue(made.database, made.project_id) is False
    with made.database.transaction() as session:
        projects.change_policy(session, projects.get(session, made.project_id), {"strategy": "mpamatch"}, actor="test")
    assert rank_queue(made.database, made.project_id) is True
    assert _costs(made).seconds_fixed == pytest.approx(2.0, abs=0.01)


def test_what_is_slow_to_tell_is_not_asked_where_it_decides_nothing(
    made: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for where, name in ((rank_queue_module, "fitted_costs"), (rank_queue_module.pools, "unranked")):
        real = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *a, real=real, name=name: (asked.append(name), real(*a))[1])
    add_images(made, train=1, audit=0, masked=False, first=50)
    assert rank_queue(made.database, made.project_id) is False  # the champion has not seen every tile
    assert asked == []
    _champion(made)
    assert rank_queue(made.database, made.project_id) is True
    assert asked == ["fitted_costs"]
    asked.clear()
    assert rank_queue(made.database, made.project_id) is False
    assert asked == ["unranked"]  # what labels cost has no say before there is a model


def test_worth_per_minute_prefers_what_is_quick_to_label(made: Installation) -> None:
    """Each tile has a region that is simple to draw, and a more doubtful one with five times the outline."""
    model = _made_champion(made, "m1")
    ring = ((10.0, 10.0), (30.0, 10.0), (30.0, 30.0), (10.0, 30.0), (10.0, 10.0))
    jagged = tuple((10.0 + 40 * (n % 2), 10.0 + n) for n in range(11))
    quick = Region(Box(10, 10, 20, 20), (ring,), 400, 0.5, 0.2, 0.3, 0.0, 1, 0.6)
    slow = replace(quick, rings=((*jagged, jagged[0]),), uncertainty=0.9)
    _predict(made, model, lambda tile: {"regions": (quick, slow)})
    for rank_by, chosen in (("score", 0.9), ("worth-per-minute", 0.5)):
        with made.database.transaction() as session:
            changes = {"rank_by": rank_by, "exploration_share": 0.0}
            projects.change_policy(session, projects.get(session, made.project_id), changes, actor="test")
        assert rank_queue(made.database, made.project_id) is True
        assert {e.uncertainty for e in _entries(made).values() if e.stratum != "audit"} == {chosen}


def test_what_was_answered_stays_as_the_record_of_why_it_was_asked(made: Installation) -> None:
    _serve(made)
    rank_queue(made.database, made.project_id)
    asked = _listed(made)[0].tile_id
    with made.database.transaction() as session:
        queue.set_state(session, projects.get(session, made.project_id), [asked], "done")
        masks.append(session, tile_id=asked, origin="annotated", blob=made.blobs.put(b"x"), reviewed_share=1.0)
    for tau in (0.9, 0.8, 0.7):
        with made.database.transaction() as session:
            projects.change_policy(session, projects.get(session, made.project_id), {"tau": tau}, actor="test")
        assert rank_queue(made.database, made.project_id)
    with made.database.transaction() as session:
        rows = session.scalars(select(QueueEntry).order_by(QueueEntry.generation)).all()
        assert [(e.tile_id, e.state) for e in rows if e.generation == 1] == [(asked, "done")]
        assert recompute(rows[0].record) == pytest.approx(rows[0].score)
        assert {e.generation for e in rows} == {1, 3, 4}


@pytest.mark.parametrize("split", ["train", "audit"])
def test_an_order_is_stale_when_a_mask_was_imported_while_it_was_made(
    made: Installation, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    tile = made.tiles(split)[0].id
    ranked = rank_queue_module._ranked

    def meanwhile(*facts: Any) -> Any:
        with made.database.transaction() as session:
            masks.append(session, tile_id=tile, origin="imported", blob=made.blobs.put(b"x"), reviewed_share=1.0)
            projects.get(session, made.project_id).ranked_model_id = None
        return ranked(*facts)

    with monkeypatch.context() as patch:
        patch.setattr(rank_queue_module, "_ranked", meanwhile)
        assert rank_queue(made.database, made.project_id) is True
    assert rank_queue(made.database, made.project_id) is True
    assert tile not in _entries(made)
    assert rank_queue(made.database, made.project_id) is False


@pytest.mark.parametrize(("state", "closed"), [("skipped", "skipped"), ("present", "done"), ("quarantined", "done")])
def test_what_was_answered_while_an_order_was_made_is_closed_in_it(
    made: Installation, monkeypatch: pytest.MonkeyPatch, state: str, closed: str
) -> None:
    tile = made.tiles("train")[0]
    ranked = rank_queue_module._ranked

    def meanwhile(*facts: Any) -> Any:
        label(made, tile, disc(), state=state)
        return ranked(*facts)

    monkeypatch.setattr(rank_queue_module, "_ranked", meanwhile)
    assert rank_queue(made.database, made.project_id) is True
    assert _entries(made)[tile.id].state == closed


def _predict(made: Installation, model: Model, of: Callable[[int], dict[str, Any]]) -> None:
    """A prediction of each tile, with two regions unless it says others; what is known of it by the tile's number."""
    ring = ((10.0, 10.0), (30.0, 10.0), (30.0, 30.0), (10.0, 30.0), (10.0, 10.0))
    region = Region(Box(10, 10, 20, 20), (ring,), 400, 0.5, 0.2, 0.3, 0.0, 1, 0.6, class_scores=(0.1, 0.4))
    for tile in made.tiles():
        keep_prediction(
            made.database,
            made.blobs,
            tile_id=tile.id,
            model_id=model.id,
            class_map=disc(),
            confidence=np.full((64, 64), 0.6, np.float32),
            **{"regions": (region, replace(region, uncertainty=0.2)), **of(tile.id)},
        )


def _entries(made: Installation) -> dict[int, QueueEntry]:
    with made.database.transaction() as session:
        return queue.of_tiles(session, projects.get(session, made.project_id), [t.id for t in made.tiles()])


def test_what_is_unlike_anything_labelled_is_told_by_the_champions_embeddings(made: Installation) -> None:
    model = _made_champion(made, "m1")
    first = made.tiles("train")[0].id
    _predict(
        made, model, lambda tile: {"embeddings": np.array([[1.0, 0.0] if tile % 2 == first % 2 else [0.0, 1.0]] * 3)}
    )
    with made.database.transaction() as session:
        masks.append(session, tile_id=first, origin="annotated", blob=made.blobs.put(b"x"), reviewed_share=1.0)
    assert rank_queue(made.database, made.project_id, blobs=made.blobs) is True
    for tile_id, entry in _entries(made).items():
        if entry.stratum == "audit":
            continue
        alike = tile_id % 2 == first % 2
        assert entry.distance == pytest.approx(0.0 if alike else 1.0)
        assert ("unlike anything labelled" in entry.reasons) is not alike


def test_embeddings_that_are_lost_or_of_another_size_cost_their_tiles_novelty_alone(made: Installation) -> None:
    model = _made_champion(made, "m1")
    first, lost, other, whole = [t.id for t in made.tiles("train")[:4]]
    sizes = {lost: np.full((3, 3), 0.3), other: np.ones((3, 5))}
    _predict(made, model, lambda tile: {"embeddings": sizes.get(tile, np.ones((3, 2)))})
    with made.database.transaction() as session:
        masks.append(session, tile_id=first, origin="annotated", blob=made.blobs.put(b"x"), reviewed_share=1.0)
        prediction = predictions.of(session, lost, model.id)
        made.blobs.delete(prediction.embeddings_blob)
    assert rank_queue(made.database, made.project_id, blobs=made.blobs) is True
    entries = _entries(made)
    assert [entries[tile].distance is None for tile in (lost, other, whole)] == [True, True, False]


def test_class_scores_and_second_looks_reach_the_order(made: Installation) -> None:
    model = _made_champion(made, "m1")
    _predict(made, model, lambda tile: {})
    looked = made.tiles("train")[0].id
    with made.database.transaction() as session:
        second_looks.keep(session, predictions.of(session, looked, model.id).id, [0.02, 0.08])
    assert rank_queue(made.database, made.project_id, blobs=made.blobs) is True
    entries = _entries(made)
    # The mean entropy where a second look was taken, over the mean BALD there: 0.35 / 0.05.
    assert entries[looked].bald == pytest.approx(0.08)
    assert entries[looked].uncertainty_factor == pytest.approx(0.56)
    assert entries[looked].uncertainty == 0.2
    others = [e for tile, e in entries.items() if tile != looked and e.stratum != "audit"]
    assert {e.bald for e in others} == {None}
    # The most of the class that a region has, times what 400 px are to be trusted.
    chosen = [e for e in entries.values() if e.stratum == "class"]
    assert {round(e.class_worth, 5) for e in chosen} == {round(0.4 * 400 / 656, 5)}
    assert {e.class_id for e in chosen} == {1}


def test_masks_that_came_with_the_images_are_reviewed_once_nothing_else_is_left(
    database_url: str, tmp_path: Path
) -> None:
    made = installation(database_url, tmp_path, train=3, audit=2, masked=True)
    add_images(made, train=1, audit=0, masked=False, first=50)
    _champion(made)
    rank_queue(made.database, made.project_id)
    (unlabelled,) = _listed(made)
    assert unlabelled.reasons[0] != REVIEW

    with made.database.transaction() as session:
        masks.append(
            session, tile_id=unlabelled.tile_id, origin="annotated", blob=made.blobs.put(b"x"), reviewed_share=1.0
        )
        queue.set_state(session, projects.get(session, made.project_id), [unlabelled.tile_id], "done")
    assert rank_queue(made.database, made.project_id) is True
    listed = _listed(made)
    assert {e.tile_id for e in listed} == {t.id for t in made.tiles("train")} - {unlabelled.tile_id}
    assert all(e.reasons[0] == REVIEW for e in listed)
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        version = projects.champion(session, project).version
        shown = show_tile.read_shown(session, project, version, [e.tile_id for e in listed])
    assert all(one.regions == () for one in shown.values())  # boxes would take the rest of the mask out of training
    assert rank_queue(made.database, made.project_id) is False
