"""What was seen in the tests, as figures: kept as JSON where the environment says where.

    RELIABILITY_RESULTS=docs/results/reliability.json .venv/bin/python -m pytest tests/reliability

The table of ``docs/reliability.md`` is made from it.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path


class FaultLog:
    """The row of one test; ``struck`` starts the clock and ``recovered`` stops it."""

    def __init__(self, test_id: str) -> None:
        self.test_id = test_id
        self._at = time.monotonic()

    def struck(self) -> None:
        """The fault is over, or cannot get worse: from here on the product must come back by itself."""
        self._at = time.monotonic()

    def recovered(self, *, row: int, fault: str, seen: str) -> float:
        """All holds again. ``seen``: what happened, in one sentence. The seconds since ``struck``."""
        seconds = time.monotonic() - self._at
        place = os.environ.get("RELIABILITY_RESULTS")
        if place:
            path = Path(place)
            rows = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            rows[self.test_id] = {"row": row, "fault": fault, "seen": seen, "recovered_s": round(seconds, 1)}
            ordered = dict(sorted(rows.items(), key=lambda item: (item[1]["row"], item[0])))
            path.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return seconds
