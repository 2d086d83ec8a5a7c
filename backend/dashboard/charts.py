"""Geometry of the charts: figures in, coordinates out; the templates draw them as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.actions.see_ring import Depth
from backend.actions.see_runs import Judged, Losses


@dataclass(frozen=True)
class Tick:
    """A mark on an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Mark:
    """One verdict in the chart; ``low`` and ``high`` are the ends of its whisker."""

    x: float
    y: float
    promoted: bool
    text: str
    low: float | None
    high: float | None


@dataclass(frozen=True)
class CurveChart:
    """The learning curve. ``champion``: an SVG path of the Dice of whoever served after each verdict."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    marks: tuple[Mark, ...]
    champion: str


@dataclass(frozen=True)
class Line:
    """One line with its name, and how it is drawn."""

    name: str
    path: str
    kind: int


@dataclass(frozen=True)
class LineChart:
    """Lines over a common axis."""

    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Bar:
    """A bar of the queue's depth: what stands in Label Studio, then what waits behind it. Widths in percent."""

    depth: Depth
    in_head: float
    behind: float


_MOST_MARKS = 60
_LABEL_EVERY = 10
_LINE_KINDS = 5


def learning_curve(judged: Sequence[Judged], *, width: int, height: int) -> CurveChart | None:
    """None when no verdict carries a figure. Of very many, the newest are drawn."""
    points = [j for j in judged if j.candidate_dice is not None][-_MOST_MARKS:]
    if not points:
        return None
    values = [v for j in points for v in (j.candidate_dice, _serves(j), *(_whisker(j) or ())) if v is not None]
    low, high = _span(values)
    left, right, top, bottom = 44.0, width - 16.0, 24.0, height - 46.0
    step = (right - left) / max(len(points), 1)

    def x_of(n: int) -> float:
        return round(left + step * (n + 0.5), 1)

    def y_of(value: float) -> float:
        return round(bottom - (value - low) / (high - low) * (bottom - top), 1)

    marks: list[Mark] = []
    path: list[str] = []
    every = max(1, math.ceil(len(points) / _LABEL_EVERY))
    for n, judged_one in enumerate(points):
        assert judged_one.candidate_dice is not None
        ends = _whisker(judged_one)
        serves = _serves(judged_one)
        if serves is not None:
            path.append(f"{'L' if path else 'M'}{x_of(n)} {y_of(serves)}")
        marks.append(
            Mark(
                x=x_of(n),
                y=y_of(judged_one.candidate_dice),
                promoted=judged_one.promoted,
                text=f"{judged_one.candidate_dice:.3f}" if (len(points) - 1 - n) % every == 0 else "",
                low=y_of(ends[0]) if ends else None,
                high=y_of(ends[1]) if ends else None,
            )
        )
    across = tuple(Tick(x_of(n), _short(j.version)) for n, j in enumerate(points) if (len(points) - 1 - n) % every == 0)
    up = tuple(Tick(y_of(v), f"{v:.2f}") for v in _steps(low, high, 5))
    return CurveChart(width, height, left, right, top, bottom, across, up, tuple(marks), " ".join(path))


def loss_chart(losses: Losses, names: Mapping[str, str], *, width: int, height: int) -> LineChart:
    """Losses over steps."""
    values = [v for line in losses.lines.values() for _, v in line if math.isfinite(v)]
    low, high = 0.0, max([*values, 1e-6]) * 1.05
    left, right, top, bottom = 44.0, width - 16.0, 12.0, height - 40.0

    def x_of(step: int) -> float:
        return round(left + step / max(losses.steps, 1) * (right - left), 1)

    def y_of(value: float) -> float:
        return round(bottom - (value - low) / (high - low) * (bottom - top), 1)

    lines = []
    for kind, (name, line) in enumerate(sorted(losses.lines.items())):
        points = [(x_of(s), y_of(v)) for s, v in line if math.isfinite(v)]
        if points:
            path = " ".join(f"{'L' if n else 'M'}{x} {y}" for n, (x, y) in enumerate(points))
            lines.append(Line(names.get(name, name), path, kind % _LINE_KINDS))
    return LineChart(
        width,
        height,
        left,
        right,
        top,
        bottom,
        tuple(Tick(x_of(int(s)), f"{int(s)}") for s in _steps(0, max(losses.steps, 1), 5)),
        tuple(Tick(y_of(v), f"{v:.2g}") for v in _steps(low, high, 4)),
        tuple(lines),
    )


def depth_bars(depth: Sequence[Depth]) -> tuple[Bar, ...]:
    """Bars relative to the deepest stratum."""
    most = max((d.waiting for d in depth), default=0) or 1
    return tuple(
        Bar(d, round(100 * d.in_label_studio / most, 2), round(100 * (d.waiting - d.in_label_studio) / most, 2))
        for d in depth
    )


def _serves(judged: Judged) -> float | None:
    """The Dice of whoever served after the verdict, on the masks of that verdict."""
    return judged.candidate_dice if judged.promoted else judged.champion_dice


def _whisker(judged: Judged) -> tuple[float, float] | None:
    """The bounds of the difference, laid at the champion's Dice; None where there are none."""
    if judged.lower is None or judged.upper is None or judged.champion_dice is None:
        return None
    return (judged.champion_dice + judged.lower, judged.champion_dice + judged.upper)


def _span(values: Sequence[float]) -> tuple[float, float]:
    """A range that holds every value with room above and below, in tenths, inside 0..1 where Dice lives."""
    low = max(math.floor((min(values) - 0.02) * 10) / 10, 0.0)
    high = min(math.ceil((max(values) + 0.02) * 10) / 10, 1.0)
    return (low, high) if high - low > 0.15 else (max(0.0, high - 0.2), max(high, 0.2))


def _steps(low: float, high: float, about: int) -> list[float]:
    """Round numbers from low to high."""
    raw = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]


def _short(version: str) -> str:
    """`glands-m7` as `m7`."""
    return version.rpartition("-")[2]
