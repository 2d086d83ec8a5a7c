"""What is not well, in words, each with what to do about it."""

from __future__ import annotations

import http.client
import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from backend.actions.see_ring import Ring, SetAside
from backend.dashboard.words import ago, plural
from backend.processes import is_alive, load_book
from mpamatch.domain.drift import Drift

# What `mpamatch up` runs beside the API itself; what a missing one means for people.
PARTS = {
    "worker-io": "annotations are not applied, and Label Studio does not follow",
    "worker-predict": "nothing new is predicted",
    "worker-train": "no run goes on",
    "beat": "what a lost wake-up left is not found",
    "label-studio": "nobody can label",
}
_ALWAYS = ("worker-io", "worker-predict", "worker-train", "beat")
_INBOX_PATIENCE = timedelta(minutes=2)
_ASK_TIMEOUT_S = 1.0
_ASK_AGAIN_S = 10.0


@dataclass(frozen=True)
class Trouble:
    """One thing that is wrong. ``holds_up``: people or the ring wait for it; otherwise the rest goes on without it."""

    what: str
    remedy: str
    holds_up: bool
    details: tuple[SetAside, ...] = ()


class LabelStudioWatch:
    """Whether a Label Studio answers, asked at most every few seconds however many pages are open."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, bool]] = {}
        self._lock = threading.Lock()

    def answers(self, url: str) -> bool:
        now = time.monotonic()
        with self._lock:
            at, well = self._known.get(url, (-_ASK_AGAIN_S, True))
            if now - at < _ASK_AGAIN_S:
                return well
            self._known[url] = (now, well)  # others take the old word while we ask
        well = _asked(url)
        with self._lock:
            self._known[url] = (time.monotonic(), well)
        return well


def troubles(
    ring: Ring, *, state: Path, label_studio_url: str | None, watch: LabelStudioWatch, drift: Drift, now: datetime
) -> tuple[Trouble, ...]:
    """Everything known to be wrong, what holds people up first."""
    found = [*_parts(state), *_label_studio(label_studio_url, watch), *_inbox(ring, now), *_last_run(ring)]
    found += _drift(drift)
    if ring.labels_differ is not None:
        remedy = "What Label Studio shows stays as it is until you undo the change there, or make a new project of it."
        found.append(Trouble(ring.labels_differ.rpartition("; ")[0], remedy, True))
    if ring.quarantined:
        what = f"{plural(ring.quarantined, 'image')} set aside"
        found.append(Trouble(what, "Mend the file and register it again.", False, ring.images_aside))
    if ring.annotations_aside:
        what = f"{plural(ring.annotations_aside, 'annotation')} set aside"
        remedy = "Open the task in Label Studio, mend it and submit again."
        found.append(Trouble(what, remedy, False, ring.labels_aside))
    return tuple(sorted(found, key=lambda one: not one.holds_up))


def _parts(state: Path) -> list[Trouble]:
    """From the supervisor's own book; where somebody else runs the parts there is none."""
    book = load_book(state)
    if book is None or not is_alive(book.supervisor):
        return []
    living = {part.role for part in book.parts if is_alive(part)}
    expected = [*_ALWAYS, *(part.role for part in book.parts if part.role not in _ALWAYS)]
    return [
        Trouble(
            f"{role} does not run: {PARTS[role]}",
            f"It is started again by itself; if this stays, read {state / 'logs' / role}.log and restart mpamatch up.",
            True,
        )
        for role in expected
        if role in PARTS and role not in living
    ]


def _label_studio(url: str | None, watch: LabelStudioWatch) -> list[Trouble]:
    if url is None:
        what = "not connected to Label Studio"
        return [Trouble(what, "Connect it: mpamatch connect URL --token TOKEN.", True)]
    if watch.answers(url):
        return []
    return [Trouble(f"Label Studio at {url} does not answer", "Labels and tasks wait until it is back.", True)]


def _inbox(ring: Ring, now: datetime) -> list[Trouble]:
    if ring.inbox_since is None or now - ring.inbox_since < _INBOX_PATIENCE:
        return []
    what = f"{plural(ring.inbox_waiting, 'webhook')} not applied yet, the oldest from {ago(ring.inbox_since, now)}"
    return [Trouble(what, "They are kept; see the log of worker-io for what holds it up.", True)]


def _last_run(ring: Ring) -> list[Trouble]:
    last = ring.last_run
    if last is None or last.state != "failed":
        return []
    what = f"{'adapting in ' if last.adapts else ''}run {last.number} failed: {last.problem or 'no reason noted'}"
    remedy = "The champion stays. Read the run's page, then start a run."
    if last.adapts:
        remedy = "The champion stays, and nothing waits for this: label on, and the next run trains as ever."
    return [Trouble(what, remedy, False)]


def _drift(drift: Drift) -> list[Trouble]:
    if drift.state != "alarm" or drift.confidence is None or drift.acceptance is None:
        return []
    what = (
        f"models grow surer while people agree with them less: over {len(drift.standings)} champions confidence "
        f"{drift.confidence.point:+.3f}, acceptance {drift.acceptance.point:+.3f}"
    )
    remedy = "See the audit page; look at their confident mistakes, raise tau, or train without the unlabelled pool."
    return [Trouble(what, remedy, False)]


def _asked(url: str) -> bool:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=_ASK_TIMEOUT_S)
    except (ValueError, http.client.HTTPException):
        return False
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}/health/")
        return connection.getresponse().status < 500
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
