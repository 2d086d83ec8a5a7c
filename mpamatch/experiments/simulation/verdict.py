"""What a simulation says in one sentence, and no more than its interval allows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mpamatch.experiments.simulation.strategies import BY_CHANCE, simulated_strategy

_SUBJECT = "mpamatch"


def verdict(document: Mapping[str, Any]) -> str:
    """How `mpamatch`, or else the best strategy that is driven by the model, stands against the hardest baseline."""
    means = {
        name: sum(row["aubc_clicks"]) / len(row["aubc_clicks"])
        for name, row in document["strategies"].items()
        if row["aubc_clicks"]
    }
    driven = [
        name
        for name in means
        if (one := simulated_strategy(name)).driven_by_model and one.offer != "truth" and one.part_of is None
    ]
    baseline = next((name for name in BY_CHANCE if name in means), None)
    if not driven or baseline is None:
        return "Nothing to compare: a strategy that is driven by the model and one by chance are needed."
    best = max(driven, key=lambda name: (means[name], name))
    subject = _SUBJECT if _SUBJECT in driven else best
    row = next(
        one
        for one in document["differences"]
        if (one["strategy"], one["baseline"], one["set"]) == (subject, baseline, "val")
    )
    clicks, seeds = document["protocol"]["common_clicks"], row["n"]
    said = (
        f"Over the first {clicks:,.0f} clicks and {seeds} seed{'s' if seeds != 1 else ''}, `{subject}` has a mean Dice"
        f" of {means[subject]:.4f} and `{baseline}` {means[baseline]:.4f}: {row['mean']:+.4f}{_interval(row)},"
        f" {row['up']} up and {row['down']} down, {_judged(row)}"
    )
    if best != subject:
        said += f"; the best of those driven by the model is `{best}` ({means[best]:.4f})"
    return said + "."


def _interval(row: Mapping[str, Any]) -> str:
    return "" if row["low"] is None else f" (95 % by t {row['low']:+.4f} to {row['high']:+.4f})"


def _judged(row: Mapping[str, Any]) -> str:
    if row["low"] is None:
        return "which one seed cannot judge"
    if row["low"] > 0:
        return "which is a gain"
    return "which is a loss" if row["high"] < 0 else "which does not tell them apart"
