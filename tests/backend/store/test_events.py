"""The audit chain: what was altered, removed or moved afterwards is found, and named."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import select, text

from backend.store import events, projects
from backend.store.sessions import Database
from backend.store.tables import Event
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.policy import Policy

pytestmark = pytest.mark.database


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url, pool_size=8)
    yield database
    database.close()


@pytest.fixture
def project_id(database: Database) -> int:
    with database.transaction() as session:
        classes = ClassSet.from_names(["background", "gland"])
        return projects.create(session, title="Chained", classes=classes, policy=Policy(), seed=1).id


def _record(database: Database, project_id: int | None, count: int, *, first: int = 0) -> None:
    with database.transaction() as session:
        for number in range(first, first + count):
            events.record(
                session,
                project_id=project_id,
                actor="test",
                what="thing moved",
                subject=f"thing:{number}",
                before={"share": 0.1 * number, "state": "queued"},
                after={"reasons": ["ä", "b"], "state": "done"},
            )


def _seal(database: Database, project_id: int | None) -> int:
    with database.transaction() as session:
        return events.seal(session, project_id)


def _verify(database: Database, project_id: int | None, known_head: str | None = None) -> str | None:
    with database.transaction() as session:
        return events.verify_chain(session, project_id, known_head=known_head)


def _head(database: Database, project_id: int | None) -> str | None:
    with database.transaction() as session:
        return events.chain_head(session, project_id)


def _execute(database: Database, statement: str, **values: object) -> None:
    with database.transaction() as session:
        session.execute(text(statement), values)


def _id_of(database: Database, subject: str) -> int:
    with database.transaction() as session:
        return session.scalars(select(Event.id).where(Event.subject == subject)).one()


def test_a_chain_grows_by_what_is_new_and_sealing_twice_changes_nothing(database: Database, project_id: int) -> None:
    assert _head(database, project_id) is None
    _record(database, project_id, 5)
    assert _seal(database, project_id) == 5
    head = _head(database, project_id)
    assert _seal(database, project_id) == 0
    assert _head(database, project_id) == head
    _record(database, project_id, 3, first=5)
    assert _seal(database, project_id) == 3
    assert _head(database, project_id) != head
    assert _verify(database, project_id, known_head=head) is None


def test_what_one_transaction_records_can_be_sealed_in_it(database: Database, project_id: int) -> None:
    with database.transaction() as session:
        events.record(session, project_id=project_id, actor="test", what="moved", subject="thing:0", after={"n": 1})
        assert events.seal(session, project_id) == 1
        assert events.verify_chain(session, project_id) is None
    assert _verify(database, project_id) is None


@pytest.mark.parametrize(
    "change",
    [
        "actor = 'somebody else'",
        "what = 'another thing'",
        "at = at + interval '1 microsecond'",
        """after = '{"state": "failed"}'""",
        "before = NULL",
    ],
)
def test_an_altered_event_is_found_and_named(database: Database, project_id: int, change: str) -> None:
    _record(database, project_id, 6)
    _seal(database, project_id)
    altered = _id_of(database, "thing:2")
    _execute(database, f"UPDATE event SET {change} WHERE id = :id", id=altered)
    assert (_verify(database, project_id) or "").startswith(f"event {altered} (seal 3): is not what was sealed")


def test_a_removed_event_is_found(database: Database, project_id: int) -> None:
    _record(database, project_id, 6)
    _seal(database, project_id)
    after = _id_of(database, "thing:3")
    _execute(database, "DELETE FROM event WHERE subject = 'thing:2'")
    assert _verify(database, project_id) == f"events: seal 3 missing before event {after} (seal 4)"
    # Closing the gap by giving the later ones new numbers does not help: their hashes cover their places.
    for number in (4, 5, 6):
        _execute(database, "UPDATE event SET seal_number = seal_number - 1 WHERE seal_number = :n", n=number)
    assert (_verify(database, project_id) or "").startswith(f"event {after} (seal 3): is not what was sealed")


def test_events_that_changed_places_are_found(database: Database, project_id: int) -> None:
    _record(database, project_id, 6)
    _seal(database, project_id)
    second, third = _id_of(database, "thing:1"), _id_of(database, "thing:2")
    swap = """
        UPDATE event SET seal_number = CASE id WHEN :second THEN -3 ELSE -2 END WHERE id IN (:second, :third)
    """
    _execute(database, swap, second=second, third=third)
    _execute(database, "UPDATE event SET seal_number = -seal_number WHERE seal_number < 0")
    assert (_verify(database, project_id) or "").startswith(f"event {third} (seal 2): is not what was sealed")


def test_a_chain_that_was_cut_off_is_found_against_a_head_kept_elsewhere(database: Database, project_id: int) -> None:
    _record(database, project_id, 4)
    _seal(database, project_id)
    head = _head(database, project_id)
    _execute(database, "DELETE FROM event WHERE subject IN ('thing:2', 'thing:3')")
    assert _verify(database, project_id) is None
    assert "ends at seal 2 without the head" in (_verify(database, project_id, known_head=head) or "")


def test_each_project_and_the_installation_have_chains_of_their_own(database: Database, project_id: int) -> None:
    _record(database, project_id, 2)
    _record(database, None, 3, first=10)
    assert _seal(database, None) == 3
    assert _seal(database, project_id) == 2
    assert _head(database, None) != _head(database, project_id)
    _execute(database, "UPDATE event SET actor = 'x' WHERE subject = 'thing:11'")
    assert _verify(database, project_id) is None
    assert _verify(database, None) is not None


def test_two_workers_that_seal_while_others_write_make_one_chain(database: Database, project_id: int) -> None:
    done = threading.Event()

    def write(first: int) -> None:
        for number in range(20):
            _record(database, project_id, 2, first=first + 2 * number)

    def keep_sealing() -> None:
        while not done.is_set():
            _seal(database, project_id)

    writers = [threading.Thread(target=write, args=(1000 * n,)) for n in range(3)]
    sealers = [threading.Thread(target=keep_sealing) for _ in range(2)]
    for thread in (*sealers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in sealers:
        thread.join()
    _seal(database, project_id)
    with database.transaction() as session:
        numbers = session.scalars(select(Event.seal_number).order_by(Event.seal_number)).all()
    assert numbers == list(range(1, 121))
    assert _verify(database, project_id) is None
