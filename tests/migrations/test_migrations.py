import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, select, text
from sqlalchemy.exc import IntegrityError

from backend.store.sessions import Database
from backend.store.tables import Base, Project, QueueEntry
from migrations.revisions import revisions
from migrations.run import configuration, upgrade

pytestmark = pytest.mark.database


def test_migrations_make_exactly_the_tables_that_the_code_uses(empty_database_url: str) -> None:
    upgrade(empty_database_url)
    command.check(configuration(empty_database_url))


def test_the_revisions_that_health_goes_by_are_those_of_alembic() -> None:
    walked = ScriptDirectory.from_config(configuration("")).walk_revisions()
    assert revisions() == tuple(script.revision for script in walked)


def test_the_circular_key_of_champions_is_there(database_url: str) -> None:
    keys = inspect(create_engine(database_url)).get_foreign_keys("project")
    assert [k["referred_table"] for k in keys if k["constrained_columns"] == ["champion_id"]] == ["model"]


def test_upgrading_twice_changes_nothing(database_url: str) -> None:
    upgrade(database_url)
    assert set(Base.metadata.tables) < set(inspect(create_engine(database_url)).get_table_names())


# One project with an order as 0008 kept it: a tile with a region, drawn by chance, and a whole one.
_OLD_ORDER = """
INSERT INTO project (id, key, title, classes, policy, seed, queue_generation)
    VALUES (1, 'p', 'Old', '[]', '{}', 7, 3);
INSERT INTO model (id, project_id, version, kind, state) VALUES (1, 1, 'p-m0', 'trained', 'champion');
UPDATE project SET champion_id = 1, ranked_model_id = 1;
INSERT INTO image (id, project_id, uri, sha256, width_px, height_px, group_name, split, state)
    VALUES (1, 1, 'a', 'a', 128, 64, 'a', 'train', 'ready');
INSERT INTO tile (id, project_id, image_id, x_px, y_px, width_px, height_px, scale, tissue_share, png_blob)
    VALUES (1, 1, 1, 0, 0, 64, 64, 1, 1, 'x'), (2, 1, 1, 64, 0, 64, 64, 1, 1, 'y');
INSERT INTO queue_entry (id, project_id, generation, rank, tile_id, region_ids, score, noise, stratum, propensity,
                         round, config_hash, reasons, state)
    VALUES (1, 1, 3, 1, 1, '{5}', 0.5, 0.25, 'exploration', 0.1, 2, 'c', '["drawn at random", "doubtful"]', 'open'),
           (2, 1, 3, 2, 2, '{}', 0, 0, 'audit', 0.5, 2, 'c', '["audit tile"]', 'done');
"""


def test_an_order_of_before_stands_with_its_words_until_it_is_made_anew(empty_database_url: str) -> None:
    upgrade(empty_database_url, "0008")
    database = Database(empty_database_url)
    with database.transaction() as session:
        session.execute(text(_OLD_ORDER))
    upgrade(empty_database_url)
    with database.transaction() as session:
        first, second = session.scalars(select(QueueEntry).order_by(QueueEntry.rank))
        assert first.reasons == ("drawn at random; doubtful",)
        assert second.reasons[0].startswith("audit tile")
        assert (first.record.ranked_by.seed, first.record.ranked_by.round_number) == (7, 2)
        assert first.record.region is None
        project = session.get_one(Project, 1)
        assert (project.queue_generation, project.ranked_model_id) == (3, None)
    command.downgrade(configuration(empty_database_url), "0008")
    upgrade(empty_database_url)
    database.close()


_OLD_RUN = """
INSERT INTO project (id, key, title, classes, policy, requested_run) VALUES (1, 'p', 'Old', '[]', '{}', 'manual');
INSERT INTO run (id, project_id, number, trigger, reasons, recipe, recipe_hash, snapshot_blob, version)
    VALUES (1, 1, 1, 'labels', '[]', '{}', 'c', 's', 'p-m1');
"""


def test_what_was_asked_for_and_run_before_stays_and_norms_can_be_adapted_from_then_on(
    empty_database_url: str,
) -> None:
    upgrade(empty_database_url, "0013")
    database = Database(empty_database_url)
    with database.transaction() as session:
        session.execute(text(_OLD_RUN))
    adapt = text("UPDATE run SET trigger = 'adapt', state = 'done'")
    with pytest.raises(IntegrityError, match="ck_run_trigger"), database.transaction() as session:
        session.execute(adapt)
    upgrade(empty_database_url)
    with database.transaction() as session:
        project = session.get_one(Project, 1)
        assert (project.requested_run, project.requested_adaptation) == ("manual", False)
        session.execute(adapt)
    command.downgrade(configuration(empty_database_url), "0013")
    with database.transaction() as session:
        assert session.scalar(text("SELECT trigger FROM run")) == "manual"
    upgrade(empty_database_url)
    database.close()


_OPEN_ADAPTATION = """
UPDATE run SET trigger = 'adapt', state = 'judging', lease_until = now();
INSERT INTO model (id, project_id, version, kind, state, run_id, metrics)
    VALUES (1, 1, 'p-m1', 'trained', 'candidate', 1, '{"adapted": {"from": "p-m0"}}');
"""


def test_an_open_adaptation_ends_where_its_like_is_unknown_and_an_open_training_goes_on(
    empty_database_url: str,
) -> None:
    upgrade(empty_database_url, "0013")
    database = Database(empty_database_url)
    with database.transaction() as session:
        session.execute(text(_OLD_RUN))
    upgrade(empty_database_url)
    row = text("SELECT trigger, state, lease_until IS NULL, finished_at IS NULL FROM run")
    with database.transaction() as session:
        assert session.execute(row).one() == ("labels", "queued", True, True)
    command.downgrade(configuration(empty_database_url), "0013")
    with database.transaction() as session:
        assert session.execute(row).one() == ("labels", "queued", True, True)
    upgrade(empty_database_url)
    with database.transaction() as session:
        session.execute(text(_OPEN_ADAPTATION))
    command.downgrade(configuration(empty_database_url), "0013")
    with database.transaction() as session:
        assert session.execute(row).one() == ("manual", "cancelled", True, False)
        assert session.scalar(text("SELECT state FROM model")) == "rejected"
    upgrade(empty_database_url)
    with database.transaction() as session:
        assert session.execute(row).one() == ("manual", "cancelled", True, False)
    database.close()


def test_a_table_that_no_migration_makes_is_noticed(database_url: str) -> None:
    from alembic.util.exc import AutogenerateDiffsDetected
    from sqlalchemy import Column, MetaData, Table, Text

    extra = Table("forgotten", MetaData(), Column("id", Text, primary_key=True))
    copied = extra.to_metadata(Base.metadata)
    try:
        with pytest.raises(AutogenerateDiffsDetected):
            command.check(configuration(database_url))
    finally:
        Base.metadata.remove(copied)
