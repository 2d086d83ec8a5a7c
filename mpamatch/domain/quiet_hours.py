"""Hours in which no run starts by itself: local times of a zone, over midnight if need be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta

from mpamatch.domain.wall_clock import check_aware, first_instant, last_instant, wall_time, zone_of
from mpamatch.errors import BadInput


@dataclass(frozen=True)
class QuietHours:
    """From the first time the clock shows ``start`` until the last time it shows ``end``, every day.

    Where daylight saving skips one of them, the jump takes its place; where it shows one twice, the longer night
    counts.
    """

    start: time
    end: time
    zone: str

    def __post_init__(self) -> None:
        zone_of(self.zone)
        if self.start == self.end:
            raise BadInput(f"quiet hours {self}", "are the whole day: no run would ever start", "leave some time")

    @classmethod
    def parse(cls, text: str, zone: str) -> QuietHours:
        """Raises BadInput.

        >>> str(QuietHours.parse("22:00-6:30", "Europe/Paris"))
        '22:00-06:30'
        """
        found = re.fullmatch(r"\s*(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s*", text)
        try:
            if found is None:
                raise ValueError
            start_hour, start_minute, end_hour, end_minute = (int(number) for number in found.groups())
            return cls(time(start_hour, start_minute), time(end_hour, end_minute), zone)
        except ValueError:
            raise BadInput(f"quiet hours {text!r}", "cannot be read", "write local times: 22:00-06:00") from None

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"

    def until(self, now: datetime) -> datetime | None:
        """When the quiet hours end that ``now`` lies in, in UTC; None outside. Raises BadInput for naive times."""
        check_aware(now)
        until = self._end_around(now)
        while until is not None and (later := self._end_around(until)) is not None:
            until = later  # a clock that is set back can let one night touch the next
        return until

    def _end_around(self, now: datetime) -> datetime | None:
        zone = zone_of(self.zone)
        today = wall_time(now, zone).date()
        for day in (today - timedelta(days=1), today, today + timedelta(days=1)):
            last_day = day if self.start < self.end else day + timedelta(days=1)
            begins = first_instant(datetime.combine(day, self.start), zone)
            ends = last_instant(datetime.combine(last_day, self.end), zone)
            if begins <= now < ends:
                return ends
        return None
