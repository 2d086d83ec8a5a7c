"""A demonstration's table and curve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from backend.commands import printed


def print_table(report: dict[str, Any]) -> None:
    """Round by round, for people."""
    table = Table(
        title=f"{report['dataset']}: champion's mean Dice on {report['audit_tiles']} audit tiles", title_justify="left"
    )
    for column in (
        "round",
        "labels",
        "verdict",
        "champion",
        "Dice",
        "candidate",
        "pool",
        "confident",
        "train s",
    ):
        table.add_column(column)
    for r in report["rounds"]:
        table.add_row(
            str(r["round"]),
            str(r["labels"]),
            r["verdict"] or "",
            r["champion"].rsplit("-", 1)[-1],
            _fraction(r["champion_dice"]),
            _fraction(r["candidate_dice"]),
            "" if r["pool_tiles"] is None else str(r["pool_tiles"]),
            _fraction(r["mask_ratio"]),
            str(r["seconds"].get("train", "")),
        )
    printed.print_table(table)


def draw_curve(report: dict[str, Any], path: Path) -> None:
    """The champion's Dice over labels as a PNG; candidates that were kept out are hollow."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rounds = report["rounds"]
    labels, total = [], 0
    for r in rounds:
        total += r["labels"]
        labels.append(total)
    figure, axes = pyplot.subplots(figsize=(6, 3.6), dpi=140)
    axes.plot(labels, [r["champion_dice"] for r in rounds], marker="o", color="#1f77b4", label="champion")
    kept_out = [(x, r["candidate_dice"]) for x, r in zip(labels, rounds, strict=True) if r["verdict"] == "keep"]
    if kept_out:
        axes.scatter(
            *zip(*kept_out, strict=True), facecolors="none", edgecolors="#d62728", label="kept out (gate's tiles)"
        )
    axes.set_xlabel("tiles labelled")
    axes.set_ylabel(f"mean Dice, {report['audit_tiles']} audit tiles")
    axes.set_title(f"{report['dataset']}, start {report['start']}")
    axes.set_ylim(0, 1)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _fraction(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
