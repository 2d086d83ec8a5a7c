"""Instants, and what the clock on a wall shows: the one place that knows both changes of daylight saving.

A wall time is naive; an instant is aware. In spring some wall times do not exist, in autumn some come twice.
"""

from __future__ import annotations

import difflib
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

from mpamatch.errors import BadInput

_SECOND = timedelta(seconds=1)


def zone_of(name: str) -> ZoneInfo:
    """The zone of an IANA name. Raises BadInput, with the names that look alike.

    >>> zone_of("Europe/Paris").key
    'Europe/Paris'
    """
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no such file name; a folder of zones
        alike = difflib.get_close_matches(name, sorted(available_timezones()), n=2, cutoff=0.6)
        meant = f"did you mean {' or '.join(alike)}?" if alike else "write an IANA name such as Europe/Paris"
        raise BadInput(f"time zone {name!r}", "is unknown", meant) from None


def wall_time(instant: datetime, zone: ZoneInfo) -> datetime:
    """What the clock shows at an instant. Raises BadInput for naive times."""
    check_aware(instant)
    return instant.astimezone(zone).replace(tzinfo=None, fold=0)


def instants_of(wall: datetime, zone: ZoneInfo) -> tuple[datetime, ...]:
    """The instants, in UTC, at which the clock shows this: one as a rule, none in a gap, two where it is set back."""
    found = {wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1)}
    return tuple(sorted(instant for instant in found if wall_time(instant, zone) == wall))


def first_instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first time that the clock shows this; where it never does, the instant at which it jumps past it."""
    return next(iter(instants_of(wall, zone)), None) or _jump_over(wall, zone)


def last_instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """As ``first_instant``, but the last time where the clock shows this twice."""
    shown = instants_of(wall, zone)
    return shown[-1] if shown else _jump_over(wall, zone)


def _jump_over(wall: datetime, zone: ZoneInfo) -> datetime:
    """The instant at which the clock jumps from before ``wall`` to after it, found by halving."""
    # In a gap, fold 1 reads the wall time with the offset after the jump, and so lies before it; fold 0 lies after.
    before, after = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (1, 0))
    while after - before > _SECOND:
        middle = before + (after - before) // 2
        if wall_time(middle, zone) < wall:
            before = middle
        else:
            after = middle
    return after.replace(microsecond=0)


def check_aware(instant: datetime) -> None:
    """Raises BadInput for a time that does not say its zone."""
    if instant.tzinfo is None:
        raise BadInput("time", f"{instant} has no time zone", "use aware times, e.g. in UTC")
