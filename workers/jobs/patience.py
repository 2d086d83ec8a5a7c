"""How long a Label Studio that failed is left alone: each failure in a row doubles the wait, up to a limit.

Kept in the process and not in a row: a worker that starts asks at once, and two workers may each find out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

FIRST_WAIT_S = 2.0
# Together with one sweep this stays below the minute within which the head must be right again.
LONGEST_WAIT_S = 20.0


@dataclass
class Patience:
    """By project: failures in a row, and when to ask again."""

    _failures: dict[int, int] = field(default_factory=dict)
    _until: dict[int, datetime] = field(default_factory=dict)

    def resting(self, project_id: int, *, now: datetime) -> bool:
        """Whether it was asked in vain a moment ago."""
        until = self._until.get(project_id)
        return until is not None and now < until

    def failed(self, project_id: int, *, now: datetime) -> float:
        """Note a failure; the seconds until it may be asked again."""
        count = self._failures.get(project_id, 0)
        wait_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2**count)
        self._failures[project_id] = count + 1
        self._until[project_id] = now + timedelta(seconds=wait_s)
        return wait_s

    def answered(self, project_id: int) -> None:
        """It works: the next failure is the first again."""
        self._failures.pop(project_id, None)
        self._until.pop(project_id, None)
