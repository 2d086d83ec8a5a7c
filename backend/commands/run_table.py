"""One run as a table for people: what `mpamatch runs show --json` holds, in words. It reads no rows."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from backend.dashboard.words import lasting, plural

LOSSES = ("x", "u", "total")  # the order of the method's paper; the database keeps none


def losses_in_order(losses: dict[str, Any] | None) -> list[tuple[str, float]]:
    """Those that are numbers: first as in the paper, then the others by name."""
    found = losses or {}
    names = [*(name for name in LOSSES if name in found), *sorted(found.keys() - set(LOSSES))]
    return [(name, found[name]) for name in names if isinstance(found[name], int | float)]


def run_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and words of each line, those without anything to say left out. Counts are whole, shares have two digits."""
    return [(name, words) for name, words in _lines(found) if words]


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    adapted = found["adapted"]
    yield "state", found["state"]
    yield "problem", found["problem"] or ""
    yield "trigger", found["trigger"]
    yield "because", "\n".join(found["reasons"] or ())
    yield "model", found["version"]
    yield "step", _of(found["step"], found["steps"])
    yield "time left", _lasting(found["eta_s"])
    yield "adapting took" if adapted else "training took", _lasting(found["seconds"])
    yield "adapted", f"{adapted['from']} to {plural(adapted['images'], 'tile')}; no label was learnt" if adapted else ""
    yield "losses", ", ".join(f"{name} {value:.3f}" for name, value in losses_in_order(found["losses"]))
    yield "pool", _pool(found)
    yield "pseudo-labels", _pseudo_labels(found["pseudo_labels"] or {})
    yield "notes", "\n".join(str(note) for note in found["notes"])
    yield "attempt", str(found["attempt"])
    # An adaptation follows none.
    yield "recipe", "" if found["recipe"] is None else f"{found['recipe']}, {found['recipe_hash'][:12]}"
    yield "opened", _moment(found["created_at"])
    yield "ended", _moment(found["finished_at"])
    yield from _verdict(found["verdict"])


def _pool(found: dict[str, Any]) -> str:
    tiles, ratio = found["pool_tiles"], found["mask_ratio"]
    parts = [] if tiles is None else [plural(round(tiles), "tile")]
    return ", ".join(parts if ratio is None else [*parts, f"{ratio:.2f} of its pixels confident enough to learn from"])


def _pseudo_labels(seen: dict[str, Any]) -> str:
    """Of labelled tiles that the run kept back: see `docs/method.md`."""
    share, accuracy = seen.get("share"), seen.get("accuracy")
    if share is None:
        return ""
    right = "" if accuracy is None else f", {accuracy:.2f} of these right"
    pixels = f"{round(seen['pixels'])} labelled pixels" if seen.get("pixels") is not None else "labelled pixels"
    return f"at step {seen.get('step')}: {share:.2f} of {pixels} kept back are confident{right}"


def _verdict(verdict: dict[str, Any] | None) -> Iterator[tuple[str, str]]:
    if verdict is None:
        return
    figures = verdict.get("figures") or {}
    word = "promoted" if verdict["promote"] else "kept out"
    yield "verdict", f"{word}, provisional" if verdict.get("provisional") else word
    yield "why", "\n".join(verdict["reasons"])
    judged = [("candidate", "candidate_dice"), ("champion then", "champion_dice"), ("best so far", "best_dice")]
    yield "mean Dice", ", ".join(f"{figures[key]:.3f} {name}" for name, key in judged if figures.get(key) is not None)
    if figures.get("audit_tiles") is not None:
        groups = plural(round(figures.get("audit_groups") or 0), "group")
        yield "judged on", f"{plural(round(figures['audit_tiles']), 'audit tile')} of {groups}"


def _of(step: float | None, steps: float | None) -> str:
    return "" if step is None else f"{round(step)}" if steps is None else f"{round(step)} of {round(steps)}"


def _lasting(seconds: float | None) -> str:
    return "" if seconds is None else lasting(seconds)


def _moment(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"
