"""When a schedule is due: a cron text and a zone in, instants out; right around both changes of daylight saving.

The cron text is read as wall times (croniter knows nothing of the zone here), and each wall time becomes an instant
by one of two rules. A schedule that names hours is due once for each wall time that it names: the first time where
the clock is set back, at the jump where it is set forward. A schedule of every hour is due whenever the clock shows
a time of it, so that its intervals go on through both changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

from mpamatch.domain.wall_clock import check_aware, first_instant, instants_of, wall_time, zone_of
from mpamatch.errors import BadInput

_ALIASES = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
_NAMES = re.compile("(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec|sun|mon|tue|wed|thu|fri|sat|l)", re.IGNORECASE)
_HOW = "write five fields: minute hour day month weekday, as in '0 2 * * *'"
# No clock that is still in use goes back by more than two hours.
_LONGEST_SET_BACK = timedelta(hours=3)
_A_DATE = datetime(2000, 1, 1)


@dataclass(frozen=True)
class Due:
    """An instant at which a schedule is due, and what is odd about it (empty as a rule)."""

    at: datetime
    note: str = ""


@dataclass(frozen=True)
class Cron:
    """A cron text in a zone. Raises BadInput when either is no good, or when the time never comes.

    >>> Cron("0 2 * * *", "Europe/Paris").next_due(datetime(2026, 1, 1, tzinfo=UTC)).isoformat()
    '2026-01-01T01:00:00+00:00'
    """

    text: str
    zone: str

    def __post_init__(self) -> None:
        zone_of(self.zone)
        _check_text(self.text)
        try:
            next(_walls(self.text, _A_DATE))
        except CroniterError as error:
            never = "find next date" in str(error)
            problem = "never comes" if never else f"cannot be read: {error}"
            remedy = "choose a day that its month has" if never else _HOW
            raise BadInput(f"schedule {self.text!r}", problem, remedy) from None

    @property
    def every_hour(self) -> bool:
        """Whether it names no hour: then it is an interval, not a time of day."""
        hours = croniter.expand(self.text)[0][1]
        return hours == ["*"] or len(set(hours)) == 24

    def next_due(self, after: datetime) -> datetime:
        """The first due instant later than ``after``, in UTC."""
        return next(self.dues(after)).at

    def dues(self, after: datetime) -> Iterator[Due]:
        """The due instants later than ``after``, in order, without end. Raises BadInput for naive times."""
        check_aware(after)
        zone, step = zone_of(self.zone), self._next_shown if self.every_hour else self._next_named
        while True:
            due = step(after, zone)
            yield due
            after = due.at

    def passed(self, due: datetime, now: datetime, limit: int = 100) -> int:
        """How many periods a due one stands for by now, itself among them; counted up to ``limit``."""
        later = islice(self.dues(due), limit - 1)
        return 1 + sum(1 for _ in _while_before(later, now))

    def _next_named(self, after: datetime, zone: ZoneInfo) -> Due:
        # From wall time to first instant the order stays, so what lies before this wall time is not due any more.
        for wall in _walls(self.text, wall_time(after, zone)):
            at = first_instant(wall, zone)
            if at > after:
                return Due(at, _named_note(wall, at, zone))
        raise AssertionError("a cron text has no last time")

    def _next_shown(self, after: datetime, zone: ZoneInfo) -> Due:
        best: tuple[datetime, datetime] | None = None
        shows = wall_time(after, zone)
        if wall_time(after + _LONGEST_SET_BACK, zone) < shows + _LONGEST_SET_BACK:
            shows -= _LONGEST_SET_BACK  # the clock is about to be set back: earlier wall times are still to come
        for wall in _walls(self.text, shows):
            if best is not None and first_instant(wall, zone) >= best[0]:
                break
            for at in instants_of(wall, zone):
                if at > after and (best is None or at < best[0]):
                    best = at, wall
        assert best is not None
        at, wall = best
        second = len(instants_of(wall, zone)) == 2 and at != first_instant(wall, zone)
        return Due(at, f"the clock shows {wall:%H:%M} for the second time" if second else "")


def _while_before(dues: Iterator[Due], now: datetime) -> Iterator[Due]:
    for due in dues:
        if due.at > now:
            return
        yield due


def _walls(text: str, after: datetime) -> Iterator[datetime]:
    """The wall times of a cron text later than ``after``."""
    times = croniter(text, after.replace(microsecond=0))
    while True:
        yield times.get_next(datetime)


def _named_note(wall: datetime, at: datetime, zone: ZoneInfo) -> str:
    shown = instants_of(wall, zone)
    if not shown:
        now = wall_time(at, zone)
        return f"{wall:%H:%M} does not exist that day, the clock is set forward: due as it shows {now:%H:%M}"
    if len(shown) == 2:
        return f"{wall:%H:%M} comes twice that day, the clock is set back: due the first time only"
    return ""


def _check_text(text: str) -> None:
    item = f"schedule {text!r}"
    fields = text.split()
    if text.startswith("@"):
        if text not in _ALIASES:
            raise BadInput(item, "is no known name", f"known names: {', '.join(_ALIASES)}")
        return
    if len(fields) != 5:
        raise BadInput(item, f"has {len(fields)} fields, not five", _HOW)
    for field in fields:
        # Croniter also takes letters that draw a time by chance; a schedule must say the same every time.
        words = re.findall("[A-Za-z]+", field)
        if re.fullmatch(r"[0-9A-Za-z*,/?#-]+", field) is None or not all(map(_NAMES.fullmatch, words)):
            raise BadInput(item, f"cannot be read at {field!r}", _HOW)


def utc_text(instant: datetime) -> str:
    """An instant as people read it in reasons."""
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
