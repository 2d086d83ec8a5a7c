from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpamatch.domain.quiet_hours import QuietHours
from mpamatch.domain.schedule import RetrainFacts, TriggerPolicy, decide
from mpamatch.errors import BadInput

NOW = datetime(2030, 5, 1, 12, 0, tzinfo=UTC)
POLICY = TriggerPolicy(after_tiles=12, debounce_s=10, min_labelled=2, patience_s=300)
CALM = RetrainFacts(
    changed_tiles=12,
    last_change_at=NOW - timedelta(seconds=60),
    open_run=False,
    requested=None,
    labelled_tiles=12,
)


def test_enough_changed_tiles_start_a_run_once_no_label_comes_in_any_more():
    decision = decide(NOW, CALM, POLICY)
    assert decision.start
    assert decision.trigger == "labels"
    assert "12 tiles changed" in decision.reasons[0]


def test_one_tile_fewer_starts_nothing_and_time_alone_will_not_either():
    decision = decide(NOW, replace(CALM, changed_tiles=11), POLICY)
    assert not decision.start
    assert decision.not_before is None
    assert "11 tiles" in decision.reasons[0]


def test_labels_still_coming_in_are_waited_for_until_a_stated_moment():
    recent = replace(CALM, last_change_at=NOW - timedelta(seconds=4))
    decision = decide(NOW, recent, POLICY)
    assert not decision.start
    assert decision.not_before == NOW + timedelta(seconds=6)
    assert decide(decision.not_before, recent, POLICY).start


def test_a_team_that_never_pauses_is_waited_for_no_longer_than_the_patience():
    busy = replace(CALM, last_change_at=NOW, first_change_at=NOW - timedelta(seconds=301))
    assert decide(NOW, busy, POLICY).start
    younger = replace(busy, first_change_at=NOW - timedelta(seconds=295))
    assert decide(NOW, younger, POLICY).not_before == NOW + timedelta(seconds=5)


def test_a_clock_that_stepped_back_does_not_hold_a_run_for_longer_than_the_debounce():
    ahead = replace(CALM, last_change_at=NOW + timedelta(hours=3))
    assert decide(NOW, ahead, POLICY).not_before == NOW + timedelta(seconds=10)


@pytest.mark.parametrize("requested", ["manual", "label-studio"])
def test_a_request_skips_count_and_debounce(requested):
    facts = replace(CALM, changed_tiles=0, last_change_at=NOW, requested=requested)
    decision = decide(NOW, facts, POLICY)
    assert decision.start
    assert decision.trigger == requested


def test_nothing_starts_beside_an_open_run_not_even_on_request():
    decision = decide(NOW, replace(CALM, open_run=True, requested="manual"), POLICY)
    assert not decision.start
    assert "next one" in decision.reasons[0]


def test_nothing_starts_with_too_little_to_learn_from_not_even_on_request():
    decision = decide(NOW, replace(CALM, labelled_tiles=1, requested="manual"), POLICY)
    assert not decision.start
    assert "2 needed" in decision.reasons[0]


def test_a_storm_of_label_events_makes_exactly_one_run():
    starts, open_run, changed = 0, False, 0
    for second in range(40):
        now = NOW + timedelta(seconds=second)
        if second < 10:
            changed += 50
        last = NOW + timedelta(seconds=min(second, 9))
        facts = RetrainFacts(changed, last, open_run, None, changed, first_change_at=NOW)
        if decide(now, facts, POLICY).start:
            starts, open_run, changed = starts + 1, True, 0
    assert starts == 1


@given(st.integers(0, 40), st.integers(0, 3600), st.booleans(), st.integers(0, 40))
def test_a_decision_always_says_why(changed, age_s, open_run, labelled):
    facts = RetrainFacts(changed, NOW - timedelta(seconds=age_s), open_run, None, labelled)
    decision = decide(NOW, facts, POLICY)
    assert decision.reasons
    assert all(decision.reasons)
    assert decision.start == (decision.trigger is not None)
    assert decision.not_before is None or decision.not_before > NOW


def test_naive_times_are_refused():
    with pytest.raises(BadInput):
        decide(NOW.replace(tzinfo=None), CALM, POLICY)
    with pytest.raises(BadInput):
        decide(NOW, replace(CALM, last_change_at=NOW.replace(tzinfo=None)), POLICY)


@pytest.mark.parametrize("values", [{"after_tiles": 0}, {"debounce_s": -1.0}, {"patience_s": float("inf")}])
def test_a_policy_out_of_range_is_refused(values):
    with pytest.raises(BadInput):
        TriggerPolicy(**values)


# The schedule

DUE = replace(CALM, changed_tiles=3, schedule_due=NOW, last_run=7)


def test_a_period_that_is_due_starts_a_run_with_fewer_labels_than_the_count_needs():
    decision = decide(NOW, DUE, POLICY)
    assert (decision.start, decision.trigger, decision.settles_due) == (True, "schedule", True)
    assert "2030-05-01 12:00 UTC" in decision.reasons[0]
    before = decide(NOW - timedelta(seconds=1), DUE, POLICY)
    assert not before.start
    assert before.not_before == NOW
    assert not before.settles_due


def test_a_period_without_a_new_label_is_skipped_with_the_reason_unless_it_runs_always():
    skipped = decide(NOW, replace(DUE, changed_tiles=0), POLICY)
    assert (skipped.start, skipped.settles_due) == (False, True)
    assert skipped.reasons[-1] == "skipped: nothing new since run 7"
    always = decide(NOW, replace(DUE, changed_tiles=0), replace(POLICY, schedule_always=True))
    assert (always.start, always.trigger) == (True, "schedule")


def test_a_period_with_too_little_to_learn_from_is_skipped_with_the_reason():
    decision = decide(NOW, replace(DUE, labelled_tiles=1), POLICY)
    assert (decision.start, decision.settles_due) == (False, True)
    assert "2 needed" in decision.reasons[-1]


def test_a_period_that_is_due_while_a_run_is_open_waits_for_its_end():
    decision = decide(NOW, replace(DUE, open_run=True), POLICY)
    assert (decision.start, decision.settles_due) == (False, False)
    assert "waits until it ends" in decision.reasons[1]


def test_missed_periods_count_as_one_and_the_reason_says_how_many_there_were():
    decision = decide(NOW + timedelta(days=3), replace(DUE, periods_due=4), POLICY)
    assert decision.start
    assert "4 periods" in decision.reasons[0]


def test_a_request_answers_the_period_that_is_due_too():
    decision = decide(NOW, replace(DUE, requested="manual"), POLICY)
    assert (decision.trigger, decision.settles_due) == ("manual", True)


QUIET = replace(POLICY, quiet=QuietHours.parse("10:00-14:00", "UTC"))
NOON_END = NOW + timedelta(hours=2)


@pytest.mark.parametrize("facts", [CALM, DUE, replace(CALM, last_change_at=NOW)])
def test_in_quiet_hours_neither_count_nor_schedule_starts_a_run_and_the_end_is_said(facts):
    decision = decide(NOW, facts, QUIET)
    assert (decision.start, decision.settles_due, decision.not_before) == (False, False, NOON_END)
    assert "quiet hours 10:00-14:00" in decision.reasons[-1]
    assert decide(NOON_END, facts, QUIET).start


def test_a_period_with_nothing_new_is_kept_through_the_quiet_hours_since_labels_may_come():
    decision = decide(NOW, replace(DUE, changed_tiles=0), QUIET)
    assert (decision.start, decision.settles_due, decision.not_before) == (False, False, None)


def test_a_pause_that_ends_in_quiet_hours_says_their_end():
    before = NOW - timedelta(hours=2, seconds=2)
    decision = decide(before, replace(CALM, last_change_at=before), QUIET)
    assert decision.not_before == NOON_END


@pytest.mark.parametrize("requested", ["manual", "label-studio"])
def test_a_persons_wish_goes_ahead_in_quiet_hours(requested):
    assert decide(NOW, replace(CALM, requested=requested), QUIET).start


def test_without_the_rule_of_labels_only_schedule_and_people_start_runs():
    off = replace(POLICY, by_labels=False)
    assert not decide(NOW, CALM, off).start
    assert decide(NOW, DUE, off).trigger == "schedule"


# Labels of runs that ended without a model


@pytest.mark.parametrize(("runs_without_model", "needed"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 12), (400, 12)])
def test_returned_labels_count_with_new_ones_and_ever_more_of_them_while_runs_keep_failing(runs_without_model, needed):
    facts = replace(CALM, returned_tiles=12, runs_without_model=runs_without_model)
    assert not decide(NOW, replace(facts, changed_tiles=0), POLICY).start
    assert not decide(NOW, replace(facts, changed_tiles=needed - 1), POLICY).start
    assert decide(NOW, replace(facts, changed_tiles=needed), POLICY).start


def test_returned_labels_are_new_for_the_schedule():
    assert decide(NOW, replace(DUE, changed_tiles=0, returned_tiles=12, runs_without_model=1), POLICY).start


@pytest.mark.parametrize(("by_labels", "more"), [(True, " (12 changed ones start a run by themselves)"), (False, "")])
def test_without_labels_the_least_is_told_beside_the_count_that_starts_a_run(by_labels, more):
    new = replace(CALM, changed_tiles=0, labelled_tiles=0)
    (reason,) = decide(NOW, new, replace(POLICY, by_labels=by_labels)).reasons
    assert reason == f"0 tiles labelled, 2 needed to train at all{more}"


ASKED = replace(CALM, changed_tiles=0, labelled_tiles=0, last_change_at=None, adaptation_requested=True)


def test_an_adaptation_needs_no_label_and_says_that_it_learns_none():
    decision = decide(NOW, ASKED, POLICY)
    assert (decision.start, decision.trigger) == (True, "adapt")
    assert "no label is learnt" in decision.reasons[0]
    assert not decide(NOW, replace(ASKED, adaptation_requested=False), POLICY).start


def test_an_adaptation_waits_for_an_open_run_as_every_request_does():
    decision = decide(NOW, replace(ASKED, open_run=True), POLICY)
    assert not decision.start
    assert "adaptation that was asked for waits" in decision.reasons[-1]


@pytest.mark.parametrize("requested", [None, "manual"])
def test_an_adaptation_goes_before_a_training_and_answers_no_period_of_the_schedule(requested):
    facts = replace(CALM, requested=requested, adaptation_requested=True, schedule_due=NOW - timedelta(minutes=1))
    decision = decide(NOW, facts, POLICY)
    assert (decision.trigger, decision.settles_due) == ("adapt", False)
    after = decide(NOW, replace(facts, adaptation_requested=False), POLICY)
    assert (after.trigger, after.settles_due) == (requested or "schedule", True)


def test_an_adaptation_that_somebody_asked_for_does_not_mind_quiet_hours():
    quiet = QuietHours.parse("00:00-23:59", "UTC")
    assert decide(NOW, ASKED, replace(POLICY, quiet=quiet)).start
