"""What the doctor says, as tests ask for it, and what they break."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from backend.clock import utc_now
from backend.doctor.check import Check
from backend.doctor.examine import examine
from backend.settings import Settings
from tests.backend.doctor.conftest import Well

KEY = "project test-glands"
Break = Callable[[Well], AbstractContextManager[Settings]]


def named(checks: list[Check]) -> set[str]:
    """What the doctor complains of."""
    return {check.item for check in checks if check.result in ("fail", "warn")}


def one(checks: list[Check], item: str) -> Check:
    found = [check for check in checks if check.item == item]
    assert len(found) == 1, [check.item for check in checks]
    return found[0]


def look(settings: Settings) -> list[Check]:
    return examine(settings, now=utc_now, with_torch=False)
