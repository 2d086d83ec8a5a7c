"""Why somebody does not hold a tile of the queue, in words for them, and whether their answer counts all the same.

Who is refused learns which case it is and what to do with what they have drawn; who else holds the tile is not named.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.store.tables import QueueEntry
from mpamatch.errors import Conflict

_KEEP = "keep the work and submit it: it is kept as a draft; then ask for another"
_COUNTS = "keep the work and submit it: it counts while nobody else takes the tile; or ask for another"
_ASK = "ask for tiles first (POST queue/next, `mpamatch queue next`): each comes with its attempt"


@dataclass(frozen=True)
class NotHeld:
    """``problem`` goes on after "tile 7: " and after "it ". ``counts``: an answer is taken as if the lease held."""

    problem: str
    remedy: str
    counts: bool = False

    def conflict(self, tile_id: int) -> Conflict:
        return Conflict(f"tile {tile_id}", self.problem, self.remedy)


def why_not_held(row: QueueEntry, *, holder: str, attempt: int, now: datetime) -> NotHeld | None:
    """None for the one who holds the entry, under this attempt and still."""
    was_claimed = 0 < attempt <= row.attempt
    since = " meanwhile" if was_claimed else ""
    if row.state == "done":
        return NotHeld(f"has been annotated{since}", _KEEP)
    if row.state == "skipped":
        return NotHeld(f"has been left out{since}", _KEEP)
    if row.state == "leased" and row.lease_until is None:
        return NotHeld("is shown in Label Studio now", _KEEP)
    ours = row.lease_holder == holder
    if row.lease_until is not None and row.lease_until > now:
        return None if ours and attempt == row.attempt else _under_another(row, ours=ours)
    if not ours or not was_claimed:
        return NotHeld("is held by nobody, and was not held last by who sent this, under this attempt", _ASK)
    if row.lease_until is not None:
        until = f"{row.lease_until.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        return NotHeld(f"is held by nobody: your lease ran out at {until}", _COUNTS, counts=True)
    return NotHeld("is held by nobody: you gave it back, or your lease ran out", _COUNTS, counts=True)


def _under_another(row: QueueEntry, *, ours: bool) -> NotHeld:
    if not ours:
        return NotHeld("is held under another lease now, by somebody else", _KEEP)
    problem = f"is held under another lease now: attempt {row.attempt} of the same holder"
    return NotHeld(problem, f"go on with attempt {row.attempt}; what was drawn under another one: {_KEEP}")


def why_not_there(session: Session, project_id: int, tile_id: int) -> NotHeld:
    """For a tile without an entry in the live order; of earlier orders, entries that somebody had are looked at."""
    last = session.scalar(
        select(QueueEntry.state)
        .where(QueueEntry.project_id == project_id, QueueEntry.attempt > 0, QueueEntry.tile_id == tile_id)
        .order_by(QueueEntry.generation.desc())
        .limit(1)
    )
    if last is None:
        return NotHeld("is not in the queue", _ASK)
    if last == "done":
        return NotHeld("has been annotated, and is not in the queue any more", _KEEP)
    return NotHeld("is not in the queue any more: a newer order is without it", _KEEP)
