from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpamatch.domain.quiet_hours import QuietHours
from mpamatch.errors import BadInput
from tests.mpamatch.domain.test_cron import INSTANTS, ZONES

NIGHT = QuietHours.parse("22:00-06:00", "Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "until"),
    [
        ("2026-06-10T21:59:59+02:00", None),
        ("2026-06-10T22:00+02:00", "2026-06-11T06:00+02:00"),
        ("2026-06-11T00:00+02:00", "2026-06-11T06:00+02:00"),
        ("2026-06-11T05:59:59+02:00", "2026-06-11T06:00+02:00"),
        ("2026-06-11T06:00+02:00", None),
        ("2026-10-24T23:00+02:00", "2026-10-25T06:00+01:00"),
        ("2026-03-28T23:00+01:00", "2026-03-29T06:00+02:00"),
    ],
)
def test_a_night_wraps_midnight_and_follows_the_clock_there(now: str, until: str | None) -> None:
    assert NIGHT.until(at(now)) == (None if until is None else at(until))


def test_hours_of_one_day_do_not_wrap() -> None:
    day = QuietHours.parse("8:00-18:30", "Asia/Kolkata")
    assert day.until(at("2026-06-10T12:00+05:30")) == at("2026-06-10T18:30+05:30")
    assert day.until(at("2026-06-10T20:00+05:30")) is None


def test_an_end_that_comes_twice_ends_the_second_time_and_one_that_is_left_out_at_the_jump() -> None:
    night = QuietHours.parse("22:00-02:30", "Europe/Berlin")
    assert night.until(at("2026-10-25T00:45+00:00")) == at("2026-10-25T01:30+00:00")
    assert night.until(at("2026-03-29T00:30+00:00")) == at("2026-03-29T01:00+00:00")


@pytest.mark.parametrize("text", ["", "22-6", "22:00", "25:00-06:00", "22:00-06:60", "22:00-22:00", "a:b-c:d"])
def test_what_is_no_such_time_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        QuietHours.parse(text, "UTC")
    assert caught.value.remedy


@settings(max_examples=150, deadline=None)
@given(st.times(), st.times(), st.sampled_from(ZONES), INSTANTS)
def test_quiet_hours_end_later_than_now_within_two_days_and_are_over_then(start, end, zone, now) -> None:
    if start == end:
        return
    quiet = QuietHours(start, end, zone)
    until = quiet.until(now)
    if until is not None:
        assert now < until <= now + timedelta(days=2)
        assert quiet.until(until) is None
