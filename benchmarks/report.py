"""What every benchmark prints: the machine, and figures with their unit, bound and reference, as text or JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured number. ``bound`` is what it must not exceed (or, for ratios, fall below); ``reference`` is what a
    ratio is to, measured in the same run."""

    value: float
    unit: str
    bound: float | None = None
    reference: str | None = None


def median_ms(call: Callable[[], object], repeats: int = 9, warm_up: int = 1) -> float:
    """The median time of a call in milliseconds, after ``warm_up`` calls that do not count."""
    for _ in range(warm_up):
        call()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1000.0


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def report(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """The document that a benchmark prints with ``--json``."""
    return {"machine": machine(), "figures": {key: asdict(figure) for key, figure in figures.items()}}


def run(measure: Callable[[], Mapping[str, Figure]], description: str, arguments: Sequence[str] | None = None) -> None:
    """The command line of a benchmark: measure, then print a table, or JSON with ``--json``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    show(measure(), as_json=options.json)


def show(figures: Mapping[str, Figure], *, as_json: bool) -> None:
    """Print a table, or the document."""
    if as_json:
        print(json.dumps(report(figures), indent=2))
        return
    for key, figure in figures.items():
        bound = "" if figure.bound is None else f"  (bound {figure.bound:g})"
        print(f"{key:40} {figure.value:10.3f} {figure.unit}{bound}")
