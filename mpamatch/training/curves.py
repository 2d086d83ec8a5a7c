"""A run's figures over its steps: one picture for people, and TensorBoard's event files to compare runs with."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_INK = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_WEIGHTS = ("labelled", "unlabelled", "prototype", "pool_prototype")
_NAMES = {
    "x": "labelled (L_x)",
    "u": "pool (L_u)",
    "image": "image prototypes",
    "text": "text prototypes",
    "total": "total",
}


class TensorBoard:
    """Event files in ``folder``; on resuming, what an earlier process wrote from ``first_step`` on is void."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and needed here alone

        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step)  # type: ignore[no-untyped-call]

    def add(self, row: Mapping[str, Any]) -> None:
        for name, value in _flat(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def add_audit(self, step: int, mdice: float) -> None:
        self._writer.add_scalar("audit/mdice", mdice, step)

    def close(self) -> None:
        self._writer.close()


def _flat(row: Mapping[str, Any]) -> dict[str, float]:
    """The scalars of a step: ``loss/x``, ``mask_ratio/class 0``, ``prototypes/used`` and so on."""
    found = {f"loss/{name}": value for name, value in row["losses"].items()}
    found |= {"mask_ratio/all": row.get("mask_ratio"), "gradient_norm": row.get("gradient_norm")}
    found |= {f"mask_ratio/class {c}": v for c, v in enumerate(row.get("class_mask_ratio") or ())}
    found |= {f"prototypes/{name}": value for name, value in (row.get("prototypes") or {}).items()}
    found |= {f"weight/{name}": row.get(f"{name}_weight") for name in _WEIGHTS}
    found |= {name: row.get(name) for name in ("images_per_s", "peak_memory_mib")}
    checked = row.get("pseudo_labels") or {}
    if checked.get("step") == row["step"]:  # later steps repeat it
        found |= {f"pseudo_labels/{name}": checked[name] for name in ("accuracy", "share")}
    return {name: float(value) for name, value in found.items() if value is not None}


def curves_picture(
    rows: Sequence[Mapping[str, Any]], class_names: Sequence[str], audit: Mapping[str, Any] | None = None
) -> bytes:
    """A PNG of a run: losses, and where there are any, the mask ratio of each class and the prototypes' health.

    ``rows`` are the step events of its progress file, in any order; of a step told twice the last one counts.
    ``audit``: the mean Dice in the end, and on how many tiles.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    by_step = {int(row["step"]): row for row in rows}
    steps = sorted(by_step)
    healthy = [s for s in steps if by_step[s].get("prototypes")]
    taught = [s for s in steps if by_step[s].get("class_mask_ratio")]
    count = 1 + bool(taught) + bool(healthy)
    figure, grid = pyplot.subplots(1, count, figsize=(5 * count, 4), layout="constrained", squeeze=False)
    axes = list(grid[0])
    names = {name for row in rows for name in row["losses"]} - (set() if taught else {"u"})
    if names == {"x", "total"}:
        names = {"x"}  # one term is its own total
    for ink, name in zip(_INK, sorted(names, key=list(_NAMES).index), strict=False):
        at = [s for s in steps if by_step[s]["losses"].get(name) is not None]
        axes[0].plot(at, _smooth([by_step[s]["losses"][name] for s in at]), color=ink, label=_NAMES[name])
    axes[0].set(title="Losses, before weights", xlabel="step", ylim=(0, None))
    for index, name in enumerate(class_names if taught else ()):
        at = [s for s in taught if _ratio(by_step[s], index) is not None]
        axes[1].plot(at, _smooth([_ratio(by_step[s], index) or 0.0 for s in at]), color=_INK[index % 7], label=name)
        axes[1].set(title="Share of pool pixels above tau, by class", xlabel="step", ylim=(0, 1.02))
    for ink, (name, label) in zip(_INK, _HEALTH.items() if healthy else (), strict=False):
        values = [by_step[s]["prototypes"].get(name) for s in healthy]
        known = [float("nan") if v is None else v for v in values]
        axes[-1].plot(healthy, known, color=ink, marker="o", label=label)
        axes[-1].set(title="Image prototypes", xlabel="step")
    for one in axes:
        one.grid(alpha=0.3)
        if one.get_legend_handles_labels()[0]:
            one.legend(fontsize=8)
    if audit is not None:
        figure.suptitle(f"Mean Dice {audit['mdice']:.3f} on {audit['images']} audit tiles")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    pyplot.close(figure)
    return buffer.getvalue()


_HEALTH = {
    "used": "rows used, of each class",
    "within": "cosine within a class",
    "between": "cosine between classes",
    "most_between": "highest between classes",
}


def _ratio(row: Mapping[str, Any], index: int) -> float | None:
    ratios = row.get("class_mask_ratio") or ()
    return ratios[index] if index < len(ratios) else None


def _smooth(values: Sequence[float], share: float = 0.9) -> list[float]:
    """A running mean that starts unbiased: single steps jump."""
    smooth, total, weight = [], 0.0, 0.0
    for value in values:
        total, weight = share * total + (1 - share) * value, share * weight + (1 - share)
        smooth.append(total / weight)
    return smooth
