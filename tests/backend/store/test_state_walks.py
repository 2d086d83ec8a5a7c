"""Random walks of runs and models through the real store: whoever does what in whatever order, the rules hold.

The rules are read from the rows and the log after every step, not from the code that moves them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from sqlalchemy import select

from backend.actions.cancel_run import cancel_run
from backend.actions.change_champion import promote, rollback
from backend.actions.open_run import open_run, request_run
from backend.store import models, projects, runs
from backend.store.tables import Event, Mask, Model, Run, Tile
from mpamatch.domain.states import RUN
from mpamatch.errors import Conflict, NotFound
from tests.builders import Installation, installation

pytestmark = pytest.mark.database
START = datetime(2100, 1, 1, tzinfo=UTC)  # later than any row that the database's own clock wrote
LEASE_S = 60.0
EXAMPLES, STEPS = 25, 40
holders = st.sampled_from(["a", "b"])


class Walk(RuleBasedStateMachine):
    """Two train workers, a person, the sweep and the gate at one project."""

    made: Installation

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.held: dict[str, tuple[int, int]] = {}  # what each worker believes it holds: run and attempt
        self.ended: dict[int, str] = {}  # the state in which a run was seen to end
        self.rejected: set[int] = set()
        self.numbers = itertools.count()
        self._forget()

    def _forget(self) -> None:
        """Leave the project as if nothing had run yet, the first champion in charge."""
        with self._session() as session:
            project = projects.get(session, self.made.project_id)
            first = session.scalars(select(Model).where(Model.run_id.is_(None))).one()
            session.query(Mask).update({"first_run_id": None})
            for model in session.scalars(select(Model).where(Model.run_id.is_not(None))):
                model.previous_id, model.state = None, "rejected"
            session.flush()
            first.state, first.previous_id = "champion", None
            project.champion_id, project.requested_run = first.id, None
            session.flush()
            session.query(Model).filter(Model.run_id.is_not(None)).delete()
            session.query(Run).delete()

    def _session(self) -> Any:
        return self.made.database.transaction()

    # -- what may happen

    @rule(seconds=st.sampled_from([1, 30, 90]))
    def time_passes(self, seconds: int) -> None:
        self.now += timedelta(seconds=seconds)

    @rule()
    def somebody_asks_for_a_run(self) -> None:
        with self._session() as session:
            request_run(session, projects.get(session, self.made.project_id), by="manual")

    @rule()
    def the_rules_are_asked(self) -> None:
        with self._session() as session:
            before = runs.open_run(session, self.made.project_id)
        run, decision = open_run(self.made.database, self.made.blobs, self.made.project_id, now=self.now)
        assert run is None or before is None
        assert decision.start == (run is not None)

    @rule(holder=holders)
    def a_run_is_asked_for_and_claimed(self, holder: str) -> None:
        """What most walks begin with: left to chance alone, few would come further."""
        self.somebody_asks_for_a_run()
        self.the_rules_are_asked()
        self.a_worker_claims(holder)

    @rule(holder=holders)
    def a_worker_claims(self, holder: str) -> None:
        with self._session() as session:
            run = runs.claim_training(session, now=self.now, holder=holder, lease_s=LEASE_S)
        if run is not None:
            assert not [h for h, (i, a) in self.held.items() if (i, a) == (run.id, run.attempt)]
            self.held[holder] = (run.id, run.attempt)

    @precondition(lambda self: self.held)
    @rule(end=st.sampled_from(["judging", "failed", "queued"]))
    def a_worker_goes_silent_another_claims_and_the_silent_one_wakes(self, end: str) -> None:
        silent = min(self.held)
        self.now += timedelta(seconds=2 * LEASE_S)
        self.a_worker_claims("b" if silent == "a" else "a")
        self.a_worker_ends_its_part(silent, end)

    @precondition(lambda self: self.held)
    @rule(holder=holders)
    def a_worker_gives_a_sign(self, holder: str) -> None:
        def beat(session: Any, run_id: int, attempt: int) -> None:
            runs.heartbeat(session, run_id, attempt=attempt, now=self.now, lease_s=LEASE_S, progress=None)

        self._as_holder(holder, beat)

    @precondition(lambda self: self.held)
    @rule(holder=holders, end=st.sampled_from(["judging", "failed", "queued"]))
    def a_worker_ends_its_part(self, holder: str, end: str) -> None:
        def finish(session: Any, run_id: int, attempt: int) -> None:
            run = runs.held(session, run_id, attempt)
            if end == "judging":
                session.add(
                    Model(
                        project_id=self.made.project_id,
                        version=f"w{run_id}-{attempt}",
                        kind="trained",
                        state="candidate",
                        run_id=run_id,
                    )
                )
            runs.move(session, run, end, actor=holder, lease_holder=None, lease_until=None)

        self._as_holder(holder, finish)

    def _as_holder(self, holder: str, act: Callable[[Any, int, int], None]) -> None:
        """What a worker does with what it believes it holds: refused unless it is the newest attempt in training."""
        if holder not in self.held:
            return
        run_id, attempt = self.held[holder]
        with self._session() as session:
            run = session.get_one(Run, run_id)
            mine = run.attempt == attempt and run.state == "training"
        if mine:
            with self._session() as session:
                act(session, run_id, attempt)
        else:
            with pytest.raises(Conflict), self._session() as session:
                act(session, run_id, attempt)
            del self.held[holder]

    @rule(promotes=st.booleans())
    def the_gate_judges(self, promotes: bool) -> None:
        with self._session() as session:
            project = projects.get(session, self.made.project_id)
            run = runs.open_run(session, project.id)
            if run is None or run.state != "judging":
                return
            candidate = models.candidate_of(session, run.id)
            assert candidate is not None
            if promotes:
                promote(session, project, candidate, actor="gate", now=self.now, provisional=False, why="walk")
            else:
                candidate.state = "rejected"
            runs.move(session, run, "done", actor="gate", finished_at=self.now)

    @rule()
    def a_person_cancels(self) -> None:
        with self._session() as session:
            project = projects.get(session, self.made.project_id)
            if runs.open_run(session, project.id) is None:
                return
            cancel_run(session, project, None, now=self.now, actor="person")

    @rule()
    def a_person_rolls_back(self) -> None:
        try:
            with self._session() as session:
                project = projects.get(session, self.made.project_id)
                rollback(session, project, to_version=None, actor="person", now=self.now)
        except (Conflict, NotFound):
            pass

    @precondition(lambda self: self.rejected)
    @rule()
    def nobody_brings_a_rejected_model_back(self) -> None:
        with self._session() as session:
            project, model = projects.get(session, self.made.project_id), session.get_one(Model, min(self.rejected))
            with pytest.raises(Conflict):
                promote(session, project, model, actor="person", now=self.now, provisional=False, why="walk")

    @rule()
    def the_sweep_looks(self) -> None:
        with self._session() as session:
            runs.end_cancelled(session, now=self.now)

    # -- what must hold after every step

    @invariant()
    def at_most_one_run_is_open_and_one_model_serves(self) -> None:
        with self._session() as session:
            rows = list(session.scalars(select(Run)))
            serving = list(session.scalars(select(Model).where(Model.state == "champion")))
            project = projects.get(session, self.made.project_id)
        assert sum(run.state in runs.OPEN for run in rows) <= 1
        assert [m.id for m in serving] == [project.champion_id]

    @invariant()
    def what_ended_stays_as_it_ended(self) -> None:
        with self._session() as session:
            states = {run.id: run.state for run in session.scalars(select(Run))}
            self.rejected = set(session.scalars(select(Model.id).where(Model.state == "rejected")))
        assert {i: states[i] for i in self.ended} == self.ended
        self.ended = {i: s for i, s in states.items() if not RUN[s]}

    @invariant()
    def every_move_in_the_log_is_in_the_table(self) -> None:
        with self._session() as session:
            subjects = [f"run:{number}" for number in session.scalars(select(Run.id))]
            moves = session.execute(
                select(Event.subject, Event.before, Event.after).where(
                    Event.subject.in_(subjects), Event.what.in_([f"run {s}" for s in RUN])
                )
            ).all()
        for subject, before, after in moves:
            if before is not None:  # the first line of a run tells how it began
                assert after["state"] in RUN[before["state"]], (subject, before, after)

    @invariant()
    def every_label_of_a_run_is_counted_by_one(self) -> None:
        with self._session() as session:
            known = {None, *session.scalars(select(Run.id))}
            assert set(session.scalars(select(Mask.first_run_id).join(Tile))) <= known


def test_no_walk_leaves_the_tables_of_moves(database_url: str, tmp_path: Path) -> None:
    made = installation(database_url, tmp_path, train=4, audit=2, masked=True)
    walk = type("ThisWalk", (Walk,), {"made": made})
    run_state_machine_as_test(
        walk,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
