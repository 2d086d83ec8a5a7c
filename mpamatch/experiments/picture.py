"""An experiment's document as a picture: a point for each seed, and the intervals of the differences.

Colours are two of Okabe and Ito's that stay apart for every kind of colour vision; shapes differ as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
_LOOK = {"val": ("#0072B2", "o"), "pool": ("#D55E00", "^")}
_ROW_IN, _LEAST_IN = 0.42, 2.6


def draw(document: Row, path: Path) -> None:
    """Write the picture as PNG; arms from top to bottom as in the table."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    arms = [arm for arm in document["arms"] if arm["done"]]
    height = max(_LEAST_IN, 1.5 + _ROW_IN * len(arms))
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, height), dpi=130, sharey=True, layout="constrained")
    names = [arm["arm"] for arm in arms]
    if document["protocol"]["scored"]:
        _points(left, document, names)
        _intervals(right, document, names)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    else:
        _costs(left, arms, "last_seconds_per_step", "seconds a step")
        _costs(right, arms, "peak_memory_mib", "peak memory, MiB")
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.4, -0.6)
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    data, protocol = document["dataset"], document["protocol"]
    figure.suptitle(f"{document['experiment']}: {data['name']}, {protocol['profile']}, {protocol['regime']}")
    figure.savefig(path)
    pyplot.close(figure)


def _points(axes: Any, document: Row, names: Sequence[str]) -> None:
    """Every cell's mean Dice, and the mean of each arm as a bar across."""
    labels = {"val": "left-out folds" if document["protocol"]["folds"] else "validation", "pool": "pool, hidden labels"}
    for place, (name, (colour, marker)) in enumerate(_LOOK.items()):
        offset = 0.16 * (2 * place - 1)
        cells = [c for c in document["cells"] if c["state"] == "done" and c.get(name) and c[name]["mdice"] is not None]
        axes.scatter(
            [c[name]["mdice"] for c in cells],
            [names.index(c["arm"]) + offset for c in cells],
            s=22,
            color=colour,
            marker=marker,
            alpha=0.75,
            linewidths=0,
            label=labels[name],
        )
        for row, arm in enumerate(names):
            values = [c[name]["mdice"] for c in cells if c["arm"] == arm]
            if values:
                mean = sum(values) / len(values)
                axes.plot([mean, mean], [row + offset - 0.14, row + offset + 0.14], color=colour, linewidth=2)
    unit = "seed and fold" if document["protocol"]["folds"] else "seed"
    axes.set_xlabel(f"mean Dice, one point a {unit}; bar: mean")


def _intervals(axes: Any, document: Row, names: Sequence[str]) -> None:
    """The difference of each arm to its baseline: mean and interval by Student's t; an open mark has no interval."""
    baseline_of = {arm["arm"]: arm["baseline"] for arm in document["arms"]}
    rows = [
        d
        for d in document["differences"]
        if d["score"] == "mdice" and d["arm"] in names and d["baseline"] == baseline_of[d["arm"]]
    ]
    for one in rows:
        if one["mean"] is None or one["at_equal"] != "steps":
            continue
        place = list(_LOOK).index(one["set"])
        colour, marker = _LOOK[one["set"]]
        row = names.index(one["arm"]) + 0.16 * (2 * place - 1)
        known = one["low"] is not None
        if known:
            axes.plot([one["low"], one["high"]], [row, row], color=colour, linewidth=1.5)
        axes.plot([one["mean"]], [row], marker, color=colour, markersize=5, fillstyle="full" if known else "none")
    baselines = sorted({one["baseline"] for one in rows if one["at_equal"] == "steps"})
    if not baselines:
        axes.set_xticks([])
        axes.text(0.5, 0.5, "nothing to compare", transform=axes.transAxes, ha="center", va="center", color="#555555")
        return
    axes.axvline(0, color="#555555", linewidth=1)
    against = baselines[0] if len(baselines) == 1 else "each arm's baseline"
    axes.locator_params(axis="x", nbins=6)  # signed numbers are wide
    axes.set_xlabel(f"difference to {against}, mean and 95 % (t)")


def _costs(axes: Any, arms: Sequence[Row], figure: str, label: str) -> None:
    known = [(arm[figure]["mean"], row) for row, arm in enumerate(arms) if arm[figure]["mean"] is not None]
    for value, row in known:
        axes.plot([0, value], [row, row], color="#0072B2", linewidth=1, alpha=0.5)
        axes.plot([value], [row], "o", color="#0072B2", markersize=5)
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
