"""What the first page says of gains and of models that confirm themselves, worked out at most twice a minute.

The page is looked at every few seconds, by everybody who has it open; these two read every label of a project.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy.orm import Session

from backend.actions.advise_stopping import StoppingAdvice, advise_stopping
from backend.actions.audit_tau import confirms_itself
from backend.store.tables import Project
from mpamatch.domain.drift import Drift

_AGAIN_S = 30.0


@dataclass(frozen=True)
class Told:
    """Of one project."""

    stopping: StoppingAdvice
    drift: Drift


class Knowing:
    """Answers from memory for half a minute, by project."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._known: dict[int, tuple[float, Told]] = {}
        self._lock = threading.Lock()
        self._clock = clock

    def of(self, session: Session, project: Project) -> Told:
        now = self._clock()
        with self._lock:
            at, told = self._known.get(project.id, (None, None))
        if at is not None and told is not None and now - at < _AGAIN_S:
            return told
        told = Told(advise_stopping(session, project), confirms_itself(session, project))
        with self._lock:
            self._known[project.id] = (now, told)
        return told
