"""Numbers and times in words, for the templates."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

_UNITS = ((86400 * 365, "year"), (86400 * 30, "month"), (86400, "day"), (3600, "h"), (60, "min"), (1, "s"))

STRATA = {
    "score": ("by score", "the model is least sure here"),
    "class": ("by class", "among the most doubtful of one class, so that every class gets its share"),
    "exploration": ("by chance", "drawn evenly, to find what the model does not know it does not know"),
    "audit": ("audit", "measures the models; nothing is trained on it and no suggestion is shown"),
    "cold": ("first spread", "no trained model yet: a few tiles of every case"),
}
PLACES = {"open": "waits", "leased": "in Label Studio", "done": "annotated", "skipped": "skipped"}
TRIGGERS = {
    "labels": "enough changed tiles",
    "manual": "asked for by hand",
    "label-studio": "asked for in Label Studio",
    "schedule": "by the clock",
    "adapt": "asked to adapt the norms",
}
LOSSES = {
    "total": "total",
    "x": "labelled",
    "u": "unlabelled",
    "image": "image prototypes",
    "text": "text prototypes",
}
FIGURES = {
    "entropy": "mean entropy",
    "bald": "BALD, at a second look",
    "impurity": "how predicted classes mix",
    "disagreement": "head against prototypes",
    "distance": "how unlike anything labelled",
}
ORIGINS = {"imported": "imported", "annotated": "drawn or changed", "confirmed": "confirmed unchanged"}


def count(number: float | None) -> str:
    """A whole number with thin spaces between thousands."""
    return "–" if number is None else f"{int(number):,}".replace(",", "\u202f")


def share(number: float | None, digits: int = 0) -> str:
    """A fraction as percent."""
    return "–" if number is None else f"{number * 100:.{digits}f} %"


def figure(number: float | None, digits: int = 3) -> str:
    return "–" if number is None else f"{number:.{digits}f}"


def taus(tau: float, by_class: Mapping[str, float]) -> str:
    """The threshold, and that of classes with their own.

    >>> taus(0.95, {}), taus(0.95, {"gland": 0.9})
    ('τ = 0.95', 'τ = 0.95 (gland 0.9)')
    """
    own = ", ".join(f"{name} {value:g}" for name, value in by_class.items())
    return f"τ = {tau:g}" + (f" ({own})" if own else "")


def signed(number: float | None, digits: int = 3) -> str:
    return "–" if number is None else f"{number:+.{digits}f}".replace("-", "−")


def lasting(seconds: float | None) -> str:
    """A duration in its largest one or two units: `3 min`, `2 h 5 min`."""
    if seconds is None:
        return "–"
    left = max(0, round(seconds))
    if left < 60:
        return f"{left} s"
    if left < 600:
        return f"{left // 60} min" + (f" {left % 60} s" if left % 60 else "")
    minutes = round(left / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    return f"{minutes // (24 * 60)} d {minutes % (24 * 60) // 60} h"


def ago(then: datetime | None, now: datetime) -> str:
    """How long ago, in one unit."""
    if then is None:
        return "never"
    seconds = (now - then) / timedelta(seconds=1)
    if seconds < 5:
        return "just now"
    size, name = next(unit for unit in _UNITS if seconds >= unit[0])
    n = int(seconds // size)
    plural = "s" if n != 1 and len(name) > 3 else ""
    return f"{n} {name}{plural} ago"


def instant(then: datetime | None) -> str:
    """A moment in UTC, to the minute."""
    return "–" if then is None else f"{then:%Y-%m-%d %H:%M} UTC"


def plural(number: int, one: str, many: str | None = None) -> str:
    """`1 tile`, `2 tiles`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"
