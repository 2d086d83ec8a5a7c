"""Tiles that people hold: never the same one for two, and none lost when somebody goes away."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, select

from backend.actions.rank_queue import rank_queue
from backend.actions.see_ring import see_depth
from backend.store import leases, projects, queue
from backend.store.generations import flip_to, write_generation
from backend.store.pool import read_pool
from backend.store.tables import Event, Image, QueueEntry, Tile
from mpamatch.domain.ranking import rank
from mpamatch.errors import Conflict
from tests.builders import Installation, installation, predict_all
from tests.reliability.fault_log import FaultLog

pytestmark = pytest.mark.database
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LEASE_S = 60.0
LATER = NOW + timedelta(seconds=LEASE_S + 1)


@pytest.fixture
def made(database_url: str, tmp_path: Path) -> Installation:
    """A ranked queue of 12 tiles that nobody holds."""
    made = installation(database_url, tmp_path / "state", train=9, audit=3)
    with made.database.transaction() as session:
        champion = projects.champion(session, projects.get(session, made.project_id))
    predict_all(made, champion)
    rank_queue(made.database, made.project_id)
    return made


def claim(made: Installation, holder: str, *, count: int = 1, now: datetime = NOW) -> list[QueueEntry]:
    with made.database.transaction() as session:
        return list(leases.claim(session, made.project_id, holder=holder, count=count, now=now, lease_s=LEASE_S))


def entry(made: Installation, tile_id: int) -> QueueEntry:
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        return queue.of_tiles(session, project, [tile_id])[tile_id]


def rank_anew(made: Installation) -> None:
    """The same order once more, as a new generation."""
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        champion = projects.champion(session, project)
        ranked = rank(
            read_pool(session, project, champion.id),
            projects.policy_of(project).ranking_with(audit_tiles=0, audit_groups=0),
            seed=project.seed,
            round_number=0,
            blank=True,
        )
        generation = write_generation(session, project, ranked, model_id=champion.id, config_hash="x")
        flip_to(session, project, generation, model_id=champion.id)


def test_two_annotators_who_ask_at_once_never_get_the_same_tile(made: Installation, log: FaultLog) -> None:
    """Row 19 of the faults: eight ask at the same time, again and again, until nothing is left."""

    def ask(number: int) -> list[int]:
        mine: list[int] = []
        while got := claim(made, f"person-{number}"):
            mine += [e.tile_id for e in got]
        return mine

    with ThreadPoolExecutor(8) as people:
        taken = [tile_id for mine in people.map(ask, range(8)) for tile_id in mine]
    assert sorted(taken) == sorted(tile.id for tile in made.tiles())
    log.recovered(row=19, fault="8 ask at once until nothing is left", seen=f"{len(taken)} tiles, each given once")


def statements_of_a_claim(made: Installation) -> list[tuple[str, Any]]:
    """What one claim with its reasons says to the database, in order."""
    said: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        said.append((statement, values))

    event.listen(made.database.engine, "before_cursor_execute", note)
    try:
        with made.database.transaction() as session:
            (mine,) = leases.claim(session, made.project_id, holder="a", count=1, now=NOW, lease_s=LEASE_S)
            assert mine.reasons
    finally:
        event.remove(made.database.engine, "before_cursor_execute", note)
    return said


def test_a_claim_asks_the_database_three_times_its_reasons_included(made: Installation) -> None:
    words = [statement.split()[0] for statement, _ in statements_of_a_claim(made)]
    assert words == ["SELECT", "WITH", "INSERT"]  # the hold of the order, the claim, its events


def test_a_claim_looks_at_waiting_entries_alone_however_many_were_answered(made: Installation) -> None:
    """By their own index, which is the only one that fits, whatever the values and whatever the statistics know."""
    _, (claiming, values), _ = statements_of_a_claim(made)
    names = list(values)
    numbered = re.sub(r"%\((\w+)\)s", lambda found: f"${names.index(found[1]) + 1}", claiming)
    with made.database.transaction() as session:
        connection = session.connection()
        # By hand: EXPLAIN itself knows plans for any values from PostgreSQL 16 on, and Debian 12 brings 15.
        for setting in ("enable_seqscan = off", "enable_bitmapscan = off", "plan_cache_mode = force_generic_plan"):
            connection.exec_driver_sql(f"SET LOCAL {setting}")
        connection.exec_driver_sql(f"PREPARE any_claim AS {numbered}")
        nothing = ", ".join(["NULL"] * len(names))
        plan = [row[0] for row in connection.exec_driver_sql(f"EXPLAIN EXECUTE any_claim({nothing})")]
        connection.exec_driver_sql("DEALLOCATE any_claim")
    scans = [line for line in plan if "queue_entry" in line and "Scan" in line]
    assert [scan.split(" using ")[1].split()[0] for scan in scans] == ["ix_queue_entry_open", "pk_queue_entry"]


def test_a_lease_that_is_taken_over_is_recorded_as_ended_and_then_as_given(made: Installation) -> None:
    claim(made, "a", count=2)
    first, second = claim(made, "b", count=2, now=LATER)
    with made.database.transaction() as session:
        rows = session.scalars(select(Event).where(Event.what.startswith("entry ")).order_by(Event.id)).all()
        told = [(row.subject, row.actor, row.before, row.after) for row in rows]
    subjects = [f"queue_entry:{entry.id}" for entry in (first, second)]
    assert [subject for subject, *_ in told] == [*subjects, subjects[0], subjects[0], subjects[1], subjects[1]]
    assert [(actor, before, after) for _, actor, before, after in told[2:4]] == [
        ("lease", {"state": "leased"}, {"state": "open", "attempt": 1, "tile": first.tile_id}),
        ("b", {"state": "open"}, {"state": "leased", "attempt": 2, "tile": first.tile_id}),
    ]


def test_the_best_tile_comes_first_and_its_lease_says_until_when(made: Installation) -> None:
    first, second = claim(made, "a", count=2)
    assert (first.rank, second.rank) == (1, 2)
    assert (first.state, first.lease_holder, first.attempt) == ("leased", "a", 1)
    assert first.lease_until == NOW + timedelta(seconds=LEASE_S)


def test_a_lease_that_ran_out_during_the_edit_fences_its_late_holder_off(made: Installation, log: FaultLog) -> None:
    """Row 19: A's time is over, B gets the tile; whatever A says afterwards is a conflict and changes nothing."""
    (mine,) = claim(made, "a")
    (theirs,) = claim(made, "b", now=LATER)
    assert (theirs.tile_id, theirs.attempt) == (mine.tile_id, mine.attempt + 1)
    late = {"holder": "a", "attempt": mine.attempt, "now": LATER}
    for act in (
        lambda session: leases.renew(session, made.project_id, mine.tile_id, lease_s=LEASE_S, **late),
        lambda session: leases.release(session, made.project_id, mine.tile_id, **late),
        lambda session: leases.skip(session, made.project_id, mine.tile_id, reason="no tissue", **late),
    ):
        with pytest.raises(Conflict, match="keep the work"), made.database.transaction() as session:
            act(session)
    held = entry(made, mine.tile_id)
    assert (held.state, held.lease_holder, held.attempt) == ("leased", "b", 2)
    seen = "renew, release and skip of the first are conflicts that say to keep the work; the second holds the tile"
    log.recovered(row=19, fault="a lease runs out during the edit, and another one gets the tile", seen=seen)


def test_the_same_person_in_two_windows_is_fenced_by_the_attempt(made: Installation) -> None:
    (old,) = claim(made, "a")
    (new,) = claim(made, "a", now=LATER)
    assert new.tile_id == old.tile_id
    with pytest.raises(Conflict), made.database.transaction() as session:
        leases.release(session, made.project_id, old.tile_id, holder="a", attempt=old.attempt, now=LATER)
    with made.database.transaction() as session:
        leases.release(session, made.project_id, new.tile_id, holder="a", attempt=new.attempt, now=LATER)
    assert entry(made, new.tile_id).state == "open"


def test_a_renewed_lease_lasts_and_an_ended_one_cannot_be_renewed(made: Installation) -> None:
    (mine,) = claim(made, "a")
    say = {"holder": "a", "attempt": mine.attempt, "lease_s": LEASE_S}
    with made.database.transaction() as session:
        leases.renew(session, made.project_id, mine.tile_id, now=NOW + timedelta(seconds=50), **say)
    (other,) = claim(made, "b", now=LATER)
    assert other.tile_id != mine.tile_id
    with pytest.raises(Conflict), made.database.transaction() as session:
        leases.renew(session, made.project_id, mine.tile_id, now=NOW + timedelta(seconds=111), **say)


def test_the_sweep_opens_what_nobody_came_back_for(made: Installation) -> None:
    (mine,) = claim(made, "a")
    with made.database.transaction() as session:
        assert leases.end_expired(session, now=NOW + timedelta(seconds=30)) == 0
        assert leases.end_expired(session, now=LATER) == 1
    ended = entry(made, mine.tile_id)
    assert (ended.state, ended.lease_holder, ended.lease_until, ended.attempt) == ("open", "a", None, 1)


def test_what_label_studio_shows_is_never_handed_out(made: Installation) -> None:
    shown = [tile.id for tile in made.tiles()][:5]
    with made.database.transaction() as session:
        assert queue.reserve(session, made.project_id, shown) == set(shown)
    taken = [e.tile_id for e in claim(made, "a", count=50, now=NOW + timedelta(days=365))]
    assert len(taken) == 7
    assert not set(taken) & set(shown)


def test_what_a_person_holds_is_not_shown_in_label_studio(made: Installation) -> None:
    (mine,) = claim(made, "a")
    with made.database.transaction() as session:
        project = projects.get(session, made.project_id)
        assert mine.tile_id not in [e.tile_id for e in queue.head(session, project, 50)]
        # Claimed after the head was planned, and before its task would have been made.
        assert queue.reserve(session, made.project_id, [mine.tile_id]) == set()
    assert entry(made, mine.tile_id).lease_holder == "a"


def test_the_depth_of_the_queue_tells_who_holds_what(made: Installation) -> None:
    with made.database.transaction() as session:
        queue.reserve(session, made.project_id, [tile.id for tile in made.tiles()[:5]])
    claim(made, "a", count=2)
    with made.database.transaction() as session:
        depth = see_depth(session, projects.get(session, made.project_id))
    assert [sum(getattr(one, name) for one in depth) for name in ("waiting", "in_label_studio", "held")] == [12, 5, 2]


def test_a_new_order_keeps_what_is_held_and_what_was_left_out(made: Installation) -> None:
    held, left_out, back = claim(made, "a", count=3)
    with made.database.transaction() as session:
        say = {"holder": "a", "now": NOW}
        leases.skip(session, made.project_id, left_out.tile_id, attempt=1, reason="out of focus", **say)
        leases.release(session, made.project_id, back.tile_id, attempt=1, **say)
    for _ in range(2):
        rank_anew(made)
    assert (entry(made, held.tile_id).state, entry(made, held.tile_id).lease_holder) == ("leased", "a")
    assert (entry(made, left_out.tile_id).state, entry(made, left_out.tile_id).skip_reason) == (
        "skipped",
        "out of focus",
    )
    assert entry(made, back.tile_id).attempt == 1
    with made.database.transaction() as session:
        leases.renew(session, made.project_id, held.tile_id, holder="a", attempt=1, now=NOW, lease_s=LEASE_S)
    assert left_out.tile_id not in [e.tile_id for e in claim(made, "b", count=50)]


def test_claims_during_a_new_ranking_are_not_lost(made: Installation, log: FaultLog) -> None:
    """Five take tiles while the order is replaced over and over: each tile still goes to one of them."""

    def ask(number: int) -> list[int]:
        return [e.tile_id for _ in range(2) for e in claim(made, f"person-{number}")]

    with ThreadPoolExecutor(6) as people:
        ranking = people.submit(lambda: [rank_anew(made) for _ in range(5)])
        taken = [tile_id for mine in people.map(ask, range(5)) for tile_id in mine]
        ranking.result()
    assert len(taken) == len(set(taken)) == 10
    assert {entry(made, tile_id).state for tile_id in taken} == {"leased"}
    seen = f"{len(taken)} tiles, each given once and still held by the one who got it"
    log.recovered(row=19, fault="5 take tiles while the order is replaced 5 times", seen=seen)


def test_a_labelled_tile_leaves_the_one_who_held_it_with_a_conflict(made: Installation) -> None:
    (mine,) = claim(made, "a")
    with made.database.transaction() as session:
        queue.set_state(session, projects.get(session, made.project_id), [mine.tile_id], "done")
    with pytest.raises(Conflict), made.database.transaction() as session:
        leases.release(session, made.project_id, mine.tile_id, holder="a", attempt=1, now=NOW)
    assert entry(made, mine.tile_id).state == "done"


def why_refused(made: Installation, tile_id: int, *, holder: str = "a", attempt: int = 1, now: datetime = NOW) -> str:
    """What somebody hears who gives a tile back that is not theirs."""
    with pytest.raises(Conflict) as refused, made.database.transaction() as session:
        leases.release(session, made.project_id, tile_id, holder=holder, attempt=attempt, now=now)
    return str(refused.value)


def test_who_never_held_a_tile_hears_where_it_is_and_how_to_get_one(made: Installation) -> None:
    free = made.tiles()[0].id
    nobody = "is held by nobody, and was not held last by who sent this, under this attempt; ask for tiles first"
    assert why_refused(made, free).startswith(f"tile {free}: {nobody}")
    (theirs,) = claim(made, "b")
    somebody = f"tile {theirs.tile_id}: is held under another lease now, by somebody else; keep the work"
    assert why_refused(made, theirs.tile_id).startswith(somebody)
    assert nobody in why_refused(made, theirs.tile_id, now=LATER)
    assert why_refused(made, 10**9).startswith(f"tile {10**9}: is not in the queue; ask for tiles first")


def test_who_held_a_tile_hears_how_the_lease_ended(made: Installation) -> None:
    (mine,) = claim(made, "a")
    ran_out = "is held by nobody: your lease ran out at 2026-03-01 12:01:00 UTC; keep the work and submit it: it counts"
    assert ran_out in why_refused(made, mine.tile_id, now=LATER)
    assert "attempt 1 of the same holder; go on with attempt 1" in why_refused(made, mine.tile_id, attempt=2)
    with made.database.transaction() as session:
        leases.end_expired(session, now=LATER)
    assert "you gave it back, or your lease ran out" in why_refused(made, mine.tile_id, now=LATER)
    with made.database.transaction() as session:
        assert queue.reserve(session, made.project_id, [mine.tile_id])
    assert "is shown in Label Studio now; keep the work" in why_refused(made, mine.tile_id, now=LATER)


@pytest.mark.parametrize(("state", "said"), [("done", "annotated"), ("skipped", "left out")])
def test_what_was_answered_is_said_to_be_so(made: Installation, state: str, said: str) -> None:
    (mine,) = claim(made, "a")
    with made.database.transaction() as session:
        queue.set_state(session, projects.get(session, made.project_id), [mine.tile_id], state)
    assert f"has been {said} meanwhile; keep the work" in why_refused(made, mine.tile_id)
    assert f"has been {said}; keep the work" in why_refused(made, mine.tile_id, holder="b", attempt=9)


def test_a_tile_that_left_the_order_is_said_to_be_there_no_more(made: Installation) -> None:
    (mine,) = claim(made, "a")
    with made.database.transaction() as session:
        session.get_one(Tile, mine.tile_id).state = "artefact"
    rank_anew(made)
    assert "is not in the queue any more: a newer order is without it" in why_refused(made, mine.tile_id)
    with made.database.transaction() as session:
        session.get_one(QueueEntry, mine.id).state = "done"
    assert "has been annotated, and is not in the queue any more" in why_refused(made, mine.tile_id)


def test_an_image_that_was_set_aside_is_not_handed_out(made: Installation) -> None:
    with made.database.transaction() as session:
        tile = made.tiles()[0]
        session.get_one(Image, tile.image_id).state = "quarantined"
    assert tile.id not in [e.tile_id for e in claim(made, "a", count=50)]


def test_each_move_leaves_who_did_it(made: Installation) -> None:
    (mine,) = claim(made, "token:abc")
    with made.database.transaction() as session:
        leases.skip(session, made.project_id, mine.tile_id, holder="token:abc", attempt=1, reason="blurred", now=NOW)
        seen = session.execute(
            select(Event.actor, Event.what, Event.after).where(Event.subject == f"queue_entry:{mine.id}")
        ).all()
    assert [(actor, what) for actor, what, _ in seen] == [
        ("token:abc", "entry leased"),
        ("token:abc", "entry skipped"),
    ]
    assert seen[1][2]["reason"] == "blurred"


def test_another_projects_tile_is_not_in_this_queue(made: Installation) -> None:
    (mine,) = claim(made, "a")
    with pytest.raises(Conflict), made.database.transaction() as session:
        leases.release(session, made.project_id + 1, mine.tile_id, holder="a", attempt=1, now=NOW)
    assert {t.project_id for t in _tiles(made, [mine.tile_id])} == {made.project_id}


def _tiles(made: Installation, ids: list[int]) -> list[Tile]:
    with made.database.transaction() as session:
        return list(session.scalars(select(Tile).where(Tile.id.in_(ids))))
