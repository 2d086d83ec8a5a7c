"""An experiment's document as text: what was run, a table of arms, a table of paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
# What the text compares; the document holds more.
_SCORE_NAMES = {"mdice": "mean", "image_foreground_dice": "foreground per image"}


def as_markdown(document: Row) -> str:
    """Everything worth reading, with a heading."""
    return f"# {document['experiment']}: {_title(document)}\n\n{document['question']}\n\n{block(document)}\n"


def block(document: Row) -> str:
    """The same without the heading, to stand inside another page."""
    scored = document["protocol"]["scored"]
    parts = [_what(document), _scores_table(document) if scored else _costs_table(document)]
    for equal in ("steps", "training seconds"):
        rows = [one for one in document["differences"] if one["at_equal"] == equal.split()[-1]]
        parts.append(f"Paired differences at equal {equal}:\n\n{_differences_table(rows)}" if rows else "")
    parts += [_without_baseline(document), _missing(document)]
    return "\n\n".join(part for part in parts if part)


def _title(document: Row) -> str:
    data, protocol = document["dataset"], document["protocol"]
    return f"{data['name']}, profile {protocol['profile']}, {protocol['regime']}"


def _what(document: Row) -> str:
    data, protocol, machine = document["dataset"], document["protocol"], document["machine"]
    lists = data["lists"]
    where = f"{lists[0]['train']['images']} train images, {lists[0]['scored']['images']} scored"
    if protocol["folds"]:
        where = f"{len(lists)} folds of whole groups of the train list"
    labelled = sorted({count for arm in document["arms"] for count in arm["labelled_images"]})
    reductions = sorted({one for arm in document["arms"] for one in arm["reduction"]})
    sentences = [
        f"{_title(document)}: {where}; labelled: {', '.join(map(str, labelled)) or '-'} ({protocol['labels']});"
        f" seeds: {len(protocol['seeds'])}; encoder: {', '.join(protocol['encoder'])}.",
    ]
    if protocol["start"]:
        sentences.append("Every cell begins with the same trained model and takes the whole schedule.")
    if protocol["scored"]:
        held_out = "the fold that was left out" if protocol["folds"] else "the validation list"
        hidden = "what is outside their boxes" if protocol["regime"] == "sparse" else "those without labels"
        sentences.append(
            f"Dice at {sizes(reductions)}, of whole images, by the weights of the EMA teacher for every arm. `val`:"
            f" {held_out}. `pool`: of the train images {hidden}, which methods with a pool have seen. Mean Dice: over"
            " classes with background, pixels pooled."
        )
    if protocol["folds"]:
        sentences.append(
            "Differences count seeds: the folds of one share train images, so that their mean is one value. A standard"
            " deviation beside an arm is that of its cells."
        )
    sentences.append(
        f"{machine['cpu']}, {machine['cores']} cores, threads a cell: {protocol['threads']};"
        f" torch {machine['versions'].get('torch', '?')}."
    )
    return " ".join(sentences)


def _scores_table(document: Row) -> str:
    rows = []
    for arm in document["arms"]:
        if not arm["done"]:
            rows.append([arm["arm"], _state(arm), *[""] * 10])
            continue
        val, pool = arm["val"], arm["pool"]
        sure = " / ".join(number(val[name]["mean"], 2) or "-" for name in ("confident_share", "confident_accuracy"))
        rows.append(
            [
                arm["arm"],
                _state(arm),
                spread(val["mdice"]),
                spread(val["foreground_dice"]),
                spread(val["image_foreground_dice"]),
                spread(pool["mdice"]),
                number(val["ece"]["mean"], 3),
                sure,
                number(arm["steps"]["mean"], 0),
                number(arm["seconds_per_step"]["mean"], 3),
                number(arm["seconds"]["mean"], 0),
                number(arm["peak_memory_mib"]["mean"], 0),
            ]
        )
    head = ["arm", "cells", "val mean Dice", "val foreground", "val per image", "pool mean Dice", "val ECE"]
    return table([*head, "confident / right", "steps", "s/step", "seconds", "MiB"], rows)


def _costs_table(document: Row) -> str:
    pace = {arm["arm"]: arm["last_seconds_per_step"]["mean"] for arm in document["arms"]}
    rows = []
    for arm in document["arms"]:
        own, base = pace[arm["arm"]], pace.get(arm["baseline"])
        rows.append(
            [
                arm["arm"],
                _state(arm),
                number(own, 3),
                number(own / base if own and base else None, 2),
                number(arm["peak_memory_mib"]["mean"], 0),
            ]
        )
    return table(["arm", "cells", "s/step", "to its baseline", "MiB"], rows)


def _differences_table(differences: Sequence[Row]) -> str:
    rows = []
    for one in differences:
        if one["score"] not in _SCORE_NAMES:
            continue
        drawn = one["bootstrap"]
        signs = f"{one['up']} up, {one['down']} down" + (f", {one['equal']} equal" if one["equal"] else "")
        rows.append(
            [
                f"{one['arm']} - {one['baseline']}",
                one["set"],
                _SCORE_NAMES[one["score"]],
                str(one["n"]),
                signed(one["mean"]),
                f"{signed(one['low'])} to {signed(one['high'])}" if one["low"] is not None else "",
                f"{signed(drawn[0])} to {signed(drawn[1])}" if drawn and drawn[0] is not None else "",
                signs,
            ]
        )
    return table(["difference", "on", "Dice", "n", "mean", "95 %, t", "95 %, bootstrap", "signs"], rows)


def _without_baseline(document: Row) -> str:
    names = {arm["arm"] for arm in document["arms"]}
    alone = [f"{arm['arm']} (with {arm['baseline']})" for arm in document["arms"] if arm["baseline"] not in names]
    return f"Not compared, since the baseline was left out: {', '.join(alone)}." if alone else ""


def _missing(document: Row) -> str:
    lines = [f"- {arm['arm']}: {'; '.join(arm['reasons'])}" for arm in document["arms"] if arm["reasons"]]
    return "Failed or not run:\n\n" + "\n".join(lines) if lines else ""


def _state(arm: Row) -> str:
    parts = [str(arm["done"])] if arm["done"] else []
    parts += [f"{arm['failed']} failed"] if arm["failed"] else []
    parts += [f"{arm['not_run']} not run"] if arm["not_run"] else []
    return ", ".join(parts)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown; bars inside cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines)


def spread(figures: Row) -> str:
    """A mean with its standard deviation; empty where nothing is known."""
    if figures["mean"] is None:
        return ""
    return f"{figures['mean']:.4f}" + (f" ± {figures['sd']:.4f}" if figures["sd"] is not None else "")


def signed(value: float | None) -> str:
    """With its sign and four digits."""
    return "" if value is None else f"{value:+.4f}"


def sizes(reductions: Sequence[float]) -> str:
    """At which sizes of the images something was scored."""
    words = ["the images' own size" if one == 1 else f"1/{one:g} of the images' size" for one in reductions]
    return " and ".join(words) or "a size that is not known yet"


def number(value: float | None, digits: int) -> str:
    """With so many digits; empty where it is not known."""
    return "" if value is None else f"{value:.{digits}f}"
