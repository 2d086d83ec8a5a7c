"""Dues around every kind of change of the clock. The traps: a time that does not exist, and one that comes twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpamatch.domain.cron import Cron
from mpamatch.domain.wall_clock import first_instant, instants_of, wall_time, zone_of
from mpamatch.errors import BadInput

ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Sydney",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Asia/Kolkata",
    "Antarctica/Troll",
    "Africa/Casablanca",
    "UTC",
]


def local(text: str, zone: str, after: str, count: int) -> list[str]:
    """The next dues as the clock there shows them, with their offset; ``after`` is UTC."""
    start = datetime.fromisoformat(after).replace(tzinfo=UTC)
    dues = islice(Cron(text, zone).dues(start), count)
    return [due.at.astimezone(zone_of(zone)).isoformat(sep=" ", timespec="minutes") for due in dues]


def test_the_autumn_hour_that_comes_twice_is_due_once() -> None:
    assert local("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 2) == [
        "2026-10-25 02:30+02:00",
        "2026-10-26 02:30+01:00",
    ]


@pytest.mark.parametrize("late_min", [0, 1, 29, 30, 31, 59, 60, 61, 90])
def test_the_second_autumn_hour_is_not_due_either_when_the_first_was_answered_late(late_min: int) -> None:
    cron = Cron("30 2 * * *", "Europe/Berlin")
    answered = datetime(2026, 10, 25, 0, 30, tzinfo=UTC) + timedelta(minutes=late_min)
    assert cron.next_due(answered) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_the_spring_hour_that_does_not_exist_is_due_at_the_jump_and_says_so() -> None:
    assert local("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 2) == [
        "2026-03-29 03:00+02:00",
        "2026-03-30 02:30+02:00",
    ]
    due = next(Cron("30 2 * * *", "Europe/Berlin").dues(datetime(2026, 3, 28, 12, tzinfo=UTC)))
    assert "02:30 does not exist that day" in due.note


def test_several_times_within_the_gap_are_due_once_at_the_jump() -> None:
    assert local("*/10 2,3 * * *", "Europe/Berlin", "2026-03-29T00:30", 3) == [
        "2026-03-29 03:00+02:00",
        "2026-03-29 03:10+02:00",
        "2026-03-29 03:20+02:00",
    ]


@pytest.mark.parametrize("after", ["2026-03-28T23:00", "2026-10-24T22:00"])
def test_a_quarter_hourly_schedule_keeps_its_real_interval_through_both_changes(after: str) -> None:
    start = datetime.fromisoformat(after).replace(tzinfo=UTC)
    dues = [due.at for due in islice(Cron("*/15 * * * *", "Europe/Berlin").dues(start), 24)]
    assert {b - a for a, b in pairwise(dues)} == {timedelta(minutes=15)}
    hourly = [due.at for due in islice(Cron("0 * * * *", "Europe/Berlin").dues(start), 8)]
    assert {b - a for a, b in pairwise(hourly)} == {timedelta(hours=1)}


@pytest.mark.parametrize(
    ("zone", "text", "after", "expected"),
    [
        ("Australia/Sydney", "30 2 * * *", "2026-04-03T20:00", ["2026-04-05 02:30+11:00", "2026-04-06 02:30+10:00"]),
        ("Australia/Sydney", "30 2 * * *", "2026-10-03T03:00", ["2026-10-04 03:00+11:00", "2026-10-05 02:30+11:00"]),
        ("America/New_York", "30 1 * * *", "2026-10-31T12:00", ["2026-11-01 01:30-04:00", "2026-11-02 01:30-05:00"]),
        ("America/New_York", "30 2 * * *", "2026-03-07T12:00", ["2026-03-08 03:00-04:00", "2026-03-09 02:30-04:00"]),
        ("Asia/Kolkata", "30 2 * * *", "2026-03-28T12:00", ["2026-03-29 02:30+05:30", "2026-03-30 02:30+05:30"]),
        ("UTC", "30 2 * * *", "2026-10-24T12:00", ["2026-10-25 02:30+00:00", "2026-10-26 02:30+00:00"]),
    ],
)
def test_other_zones_and_those_without_a_change(zone: str, text: str, after: str, expected: list[str]) -> None:
    assert local(text, zone, after, 2) == expected


def test_the_half_hour_of_lord_howe_goes_both_ways() -> None:
    assert local("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00", 2) == [
        "2026-04-05 01:45+11:00",
        "2026-04-06 01:45+10:30",
    ]
    assert local("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", 2) == [
        "2026-10-04 02:30+11:00",
        "2026-10-05 02:15+11:00",
    ]
    assert local("*/15 * * * *", "Australia/Lord_Howe", "2026-04-04T14:40", 4) == [
        "2026-04-05 01:45+11:00",
        "2026-04-05 01:30+10:30",
        "2026-04-05 01:45+10:30",
        "2026-04-05 02:00+10:30",
    ]


def test_a_day_that_a_zone_left_out_is_due_at_its_end() -> None:
    assert local("30 12 * * *", "Pacific/Apia", "2011-12-29T23:00", 2) == [
        "2011-12-31 00:00+14:00",
        "2011-12-31 12:30+14:00",
    ]


def test_the_leap_day_is_waited_for_also_over_a_century_without_one() -> None:
    assert local("0 0 29 2 *", "UTC", "2026-01-01T00:00", 2) == ["2028-02-29 00:00+00:00", "2032-02-29 00:00+00:00"]
    assert local("0 0 29 2 *", "UTC", "2097-01-01T00:00", 1) == ["2104-02-29 00:00+00:00"]


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 4,6,9,11 *"])
def test_a_time_that_never_comes_is_refused_when_it_is_set(text: str) -> None:
    with pytest.raises(BadInput, match="never comes"):
        Cron(text, "UTC")


@pytest.mark.parametrize(
    "text",
    [
        *("", "2", "* * * *", "* * * * * *", "0 0 2 * * * 2027", "99 * * * *", "0 25 * * *", "*/0 * * * *"),
        *("a b c d e", "R 2 * * *", "H 2 * * *", "R(1-5) 2 * * *", "0 2 * * nonday", "@reboot", "@Daily", "0 2 * * *;"),
    ],
)
def test_bad_texts_are_refused_in_one_line_with_a_remedy(text: str) -> None:
    with pytest.raises(BadInput) as caught:
        Cron(text, "UTC")
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zone", ["Europe/Pari", "Europe", "", "../Paris", "/etc/localtime", "MEZ"])
def test_bad_zones_are_refused_with_a_name_that_is_good(zone: str) -> None:
    with pytest.raises(BadInput, match="time zone") as caught:
        Cron("0 2 * * *", zone)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("alias", "same"), [("@daily", "0 0 * * *"), ("@hourly", "0 * * * *"), ("@weekly", "0 0 * * 0")]
)
def test_the_usual_names_are_known(alias: str, same: str) -> None:
    after = "2026-03-28T12:00"
    assert local(alias, "Europe/Berlin", after, 30) == local(same, "Europe/Berlin", after, 30)


def test_missed_periods_are_counted_up_to_a_limit() -> None:
    cron = Cron("0 2 * * *", "Europe/Berlin")
    due = datetime(2026, 10, 24, 0, tzinfo=UTC)
    assert cron.passed(due, due) == 1
    assert cron.passed(due, due + timedelta(days=2, hours=1)) == 3
    assert cron.passed(due, due + timedelta(days=4000)) == 100


def test_naive_times_are_refused() -> None:
    with pytest.raises(BadInput):
        Cron("0 2 * * *", "UTC").next_due(datetime(2026, 1, 1))


TEXTS = st.builds(
    "{} {} {} * {}".format,
    st.sampled_from(["0", "30", "59", "*/15", "10,50"]),
    st.sampled_from(["*", "0", "1", "2", "3", "1-3", "*/2", "23"]),
    st.sampled_from(["*", "1-7", "25-31"]),
    st.sampled_from(["*", "0", "1-5"]),
)
# Within some hours of the changes of 2026, where everything that can go wrong does, and anywhere else.
CHANGES = [
    datetime(2026, 3, 29, 1),
    datetime(2026, 10, 25, 1),
    datetime(2026, 4, 4, 15),
    datetime(2026, 10, 3, 15),
    datetime(2026, 3, 8, 7),
    datetime(2026, 11, 1, 6),
]
INSTANTS = st.one_of(
    st.builds(lambda at, s: at + timedelta(seconds=s), st.sampled_from(CHANGES), st.integers(-30_000, 30_000)),
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),
).map(lambda at: at.replace(tzinfo=UTC))


@settings(max_examples=150, deadline=None)
@given(TEXTS, st.sampled_from(ZONES), INSTANTS)
def test_dues_come_later_in_order_and_once_per_wall_time(text: str, zone: str, after: datetime) -> None:
    cron = Cron(text, zone)
    dues = [due.at for due in islice(cron.dues(after), 12)]
    assert all(a < b for a, b in zip([after, *dues], dues, strict=False))
    shown = [wall_time(at, zone_of(zone)) for at in dues]
    if not cron.every_hour:
        assert len(set(shown)) == len(shown)
        assert all(at == first_instant(wall, zone_of(zone)) for at, wall in zip(dues, shown, strict=True))
    else:
        assert all(at in instants_of(wall, zone_of(zone)) for at, wall in zip(dues, shown, strict=True))


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.sampled_from(ZONES), INSTANTS, st.integers(0, 100_000))
def test_asking_in_between_finds_the_same_due(text: str, zone: str, after: datetime, wait_s: int) -> None:
    cron = Cron(text, zone)
    due = cron.next_due(after)
    asked = min(after + timedelta(seconds=wait_s), due - timedelta(seconds=1))
    assert cron.next_due(max(asked, after)) == due


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ZONES), INSTANTS)
def test_no_quarter_of_an_hour_that_a_clock_shows_is_left_out(zone: str, after: datetime) -> None:
    found = {due.at for due in islice(Cron("*/15 * * * *", zone).dues(after), 40)}
    quarter = timedelta(minutes=15)
    first = after + (datetime.min.replace(tzinfo=UTC) - after) % quarter
    expected = [first + n * quarter for n in range(41)]
    assert {at for at in expected if after < at <= max(found)} == found
