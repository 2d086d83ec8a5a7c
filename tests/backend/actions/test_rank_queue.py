from pathlib import Path

import pytest

from backend.actions import show_tile
from backend.actions.rank_queue import REVIEW, rank_queue
from backend.store import masks, projects, queue
from backend.store.tables import Task
from tests.builders import Installation, add_images, add_model, installation, predict_all

pytestmark = pytest.mark.database


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
    model = add_model(made, "m1")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        projects.champion(session, project).state = "retired"
        session.flush()
        session.get_one(type(model), model.id).state = "champion"
        project.champion_id = model.id
    predict_all(made, model)
    assert rank_queue(made.database, made.project_id) is True
    listed = _listed(made)
    assert {e.stratum for e in listed} <= {"score", "exploration", "audit"}
    assert "below 0.95" in " ".join(listed[0].reasons)


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
