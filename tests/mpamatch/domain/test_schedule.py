from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
