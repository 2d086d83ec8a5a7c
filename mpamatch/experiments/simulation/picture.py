"""A simulation's curves as a picture: mean Dice over clicks, seconds and tissue, with bands of one standard deviation.

Colours are those of Okabe and Ito that stay apart for every kind of colour vision; marks differ as well, and where
colours come again the lines are broken.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np

from mpamatch.experiments.statistics import value_on_curve

Row = Mapping[str, Any]
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKS = "os^Dv<>P"
_LINES = ("-", "-.", "--", ":")
_PLACES = 41
_PANELS = (
    ("val", "clicks", "clicks", "validation list: mean Dice"),
    ("val", "seconds", "seconds of work", "validation list: mean Dice"),
    ("val", "area_share", "share of the train images' area", "validation list: mean Dice"),
    ("pool", "clicks", "clicks", "pool: mean Dice"),
)


def draw(document: Row, path: Path) -> None:
    """Write the picture as PNG; strategies without a finished cell are left out."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 2, figsize=(11, 8), dpi=130, layout="constrained")
    for axes, (on, axis, x_label, y_label) in zip(panels.flat, _PANELS, strict=True):
        _curves(axes, document, on, axis)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = panels.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False)
    data, protocol = document["dataset"], document["protocol"]
    seeds = max((len(one["seeds"]) for one in document["strategies"].values()), default=0)
    figure.suptitle(f"simulate: {data['name']}, {protocol['profile']}, {protocol['method']}; seeds: {seeds}")
    figure.savefig(path)
    pyplot.close(figure)


def looks(count: int) -> list[dict[str, str]]:
    """How each of so many lines is drawn, matplotlib's words for it; all differ.

    >>> [look["linestyle"] for look in looks(8)][-2:]
    ['-', '-.']
    """
    drawn = islice(product(_LINES, _COLOURS), count)
    return [
        {"color": colour, "linestyle": line, "marker": _MARKS[place % len(_MARKS)]}
        for place, (line, colour) in enumerate(drawn)
    ]


def _curves(axes: Any, document: Row, on: str, axis: str) -> None:
    end = document["protocol"][f"common_{axis}"]
    places = np.linspace(0, end, _PLACES)
    for (name, one), look in zip(document["strategies"].items(), looks(len(document["strategies"])), strict=True):
        if not one["curves"]:
            continue
        lines = np.array([[_at(curve, axis, on, place) for place in places] for curve in one["curves"]])
        mean = lines.mean(axis=0)
        if len(lines) > 1:
            spread = lines.std(axis=0, ddof=1)
            axes.fill_between(places, mean - spread, mean + spread, color=look["color"], alpha=0.13, linewidth=0)
        every = max(1, _PLACES // (document["protocol"]["rounds"] + 1))
        axes.plot(places, mean, **look, markevery=every, markersize=4, label=name)
    full = document["all_labels"][on]
    if full:
        height = sum(full) / len(full)
        axes.axhline(height, color="#555555", linewidth=1, linestyle="--", label="all labels")
        if on == "val":
            share = document["protocol"]["target_share"]
            axes.axhline(share * height, color="#555555", linewidth=1, linestyle=":", label=f"{share:.0%} of it")


def _at(curve: Row, axis: str, on: str, place: float) -> float:
    return float(value_on_curve(np.array(curve[axis]), np.array(curve[on]), place))
