"""Geometry of the reliability diagram: bins in, coordinates out; the template draws them as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from backend.dashboard.charts import Tick
from mpamatch.domain.reliability import Bin


@dataclass(frozen=True)
class Point:
    """One bin: mean confidence across, acceptance up; ``low`` and ``high`` are the ends of its whisker."""

    x: float
    y: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Column:
    """How many of the pixels a bin holds, as a bar from the bottom."""

    x: float
    width: float
    y: float
    height: float


@dataclass(frozen=True)
class ReliabilityChart:
    """A square from ``first`` to 1 on both axes. ``tau``: where the threshold stands across."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    points: tuple[Point, ...]
    columns: tuple[Column, ...]
    line: str
    tau: float


_TICKS = 5
_COLUMN_SHARE = 0.25  # of the height, for a bin that holds every pixel


def reliability_chart(bins: Sequence[Bin], tau: float, *, width: int, height: int) -> ReliabilityChart | None:
    """None when no pixel was counted. The axes begin at one half where nothing lies below it."""
    held = [b for b in bins if b.pixels]
    if not held:
        return None
    figures = [v for b in held for v in (b.confidence, b.acceptance, *(b.bounds or ())) if v is not None]
    first = 0.5 if min(figures) >= 0.5 and held[0].low >= 0.5 else 0.0
    left, top = 44.0, 12.0
    right, bottom = width - 16.0, height - 46.0

    def x_of(value: float) -> float:
        return round(left + (value - first) / (1 - first) * (right - left), 1)

    def y_of(value: float) -> float:
        return round(bottom - (value - first) / (1 - first) * (bottom - top), 1)

    points = tuple(
        Point(
            x=x_of(b.confidence),
            y=y_of(b.acceptance),
            low=None if b.bounds is None else y_of(b.bounds[0]),
            high=None if b.bounds is None else y_of(b.bounds[1]),
        )
        for b in held
        if b.confidence is not None and b.acceptance is not None
    )
    columns = tuple(
        Column(
            x=x_of(max(b.low, first)),
            width=round(x_of(b.high) - x_of(max(b.low, first)), 1),
            y=round(bottom - b.share * _COLUMN_SHARE * (bottom - top), 1),
            height=round(b.share * _COLUMN_SHARE * (bottom - top), 1),
        )
        for b in held
    )
    ticks = [first + n * (1 - first) / _TICKS for n in range(_TICKS + 1)]
    return ReliabilityChart(
        width=width,
        height=height,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        across=tuple(Tick(x_of(t), f"{t:.1f}") for t in ticks),
        up=tuple(Tick(y_of(t), f"{t:.1f}") for t in ticks),
        points=points,
        columns=columns,
        line=" ".join(f"{'L' if n else 'M'}{p.x} {p.y}" for n, p in enumerate(points)),
        tau=x_of(max(tau, first)),
    )
