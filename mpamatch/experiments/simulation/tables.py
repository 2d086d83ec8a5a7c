"""A simulation's document as text: what was run, a sentence, a table of strategies, the curves, paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpamatch.experiments.tables import number, signed, sizes, spread, table

Row = Mapping[str, Any]


def as_markdown(document: Row) -> str:
    """Everything worth reading, with a heading."""
    return f"# simulate: {_title(document)}\n\n{document['question']}\n\n{block(document)}\n"


def block(document: Row) -> str:
    """The same without the heading, to stand inside another page."""
    parts = [
        _what(document),
        document["verdict"],
        _strategies_table(document),
        f"Mean Dice on the validation list after each round (clicks so far):\n\n{_curves_table(document)}",
    ]
    if document["differences"]:
        parts.append(f"Paired differences in the mean over the curve:\n\n{_differences_table(document)}")
    parts.append(_missing(document))
    return "\n\n".join(part for part in parts if part)


def _title(document: Row) -> str:
    return f"{document['dataset']['name']}, profile {document['protocol']['profile']}"


def _what(document: Row) -> str:
    data, protocol, machine = document["dataset"], document["protocol"], document["machine"]
    lists = data["lists"][0]
    how = "trained anew" if protocol["cold_rounds"] else "going on from the last model"
    start = _mean(protocol["start_clicks"])
    full = document["all_labels"]
    sentences = [
        f"{_title(document)}: {lists['train']['images']} train images, {lists['scored']['images']} scored;"
        f" start: {protocol['labelled_at_start']} whole images ({number(start, 0)} clicks); {protocol['rounds']} rounds"
        f" of {protocol['budget_clicks']:,.0f} clicks; boxes of {protocol['box_side_px']} px;"
        f" seeds: {len(protocol['seeds'])}.",
        f"`{protocol['method']}`, encoder {protocol['encoder']}: {protocol['steps']['start']} steps at the start,"
        f" {protocol['steps']['round']} each round, {how}.",
        f"Dice at {sizes(protocol['reduction'])}. `val`: the validation list. `pool`: the train images but those"
        " of the start, what was bought included. Area: mean"
        f" Dice over the curve up to {protocol['common_clicks']:,.0f} clicks, which every cell reached. Wrong"
        " before: the share of what was bought that the model had wrong until then.",
    ]
    if full["seeds"]:
        sentences.append(
            f"With all labels and as many steps: val {number(_mean(full['val']), 4)},"
            f" pool {number(_mean(full['pool']), 4)}; seeds: {len(full['seeds'])}."
        )
    sentences.append(
        f"{machine['cpu']}, {machine['cores']} cores, threads a cell: {protocol['threads']};"
        f" torch {machine['versions'].get('torch', '?')}."
    )
    return " ".join(sentences)


def _strategies_table(document: Row) -> str:
    rows = []
    target = document["protocol"]["target_share"]
    for name, one in document["strategies"].items():
        if not one["seeds"]:
            rows.append([name, _state(one), *[""] * 10])
            continue
        bought = one["bought"]
        reached = [value for value in one["clicks_to_target"] if value is not None]
        of = f" ({len(reached)} of {len(one['seeds'])})" if len(reached) < len(one["seeds"]) else ""
        rows.append(
            [
                name,
                _state(one),
                _spread(one["aubc_clicks"]),
                _spread(one["aubc_clicks_pool"]),
                _spread(one["mdice"]),
                _spread(one["pool_mdice"]),
                f"{number(_mean(reached), 0)}{of}",
                number(_mean(bought["clicks"]), 0),
                number(_mean(bought["seconds"]), 0),
                f"{number(_mean([100 * share for share in bought['area_share']]), 1)} %",
                f"{number(_mean(bought['boxes']), 0)} / {number(_mean(bought['images']), 0)}",
                number(bought["wrong_share"], 2),
            ]
        )
    head = ["strategy", "seeds", "area, val", "area, pool", "end, val", "end, pool", f"clicks to {target:.0%}"]
    return table([*head, "clicks", "seconds", "pixels", "boxes / images", "wrong before"], rows)


def _curves_table(document: Row) -> str:
    rounds = range(document["protocol"]["rounds"] + 1)
    rows = [
        [name, *(f"{number(p['val']['mean'], 4)} ({p['clicks']:,.0f})" for p in one["curve"])]
        for name, one in document["strategies"].items()
        if one["curve"]
    ]
    return table(["strategy", *("start" if place == 0 else f"round {place}" for place in rounds)], rows)


def _differences_table(document: Row) -> str:
    rows = []
    for one in document["differences"]:
        drawn = one["bootstrap"]
        signs = f"{one['up']} up, {one['down']} down" + (f", {one['equal']} equal" if one["equal"] else "")
        rows.append(
            [
                f"{one['strategy']} - {one['baseline']}",
                one["set"],
                str(one["n"]),
                signed(one["mean"]),
                f"{signed(one['low'])} to {signed(one['high'])}" if one["low"] is not None else "",
                f"{signed(drawn[0])} to {signed(drawn[1])}" if drawn[0] is not None else "",
                signs,
            ]
        )
    return table(["difference", "on", "n", "mean", "95 %, t", "95 %, bootstrap", "signs"], rows)


def _missing(document: Row) -> str:
    lines = [f"- {row['strategy']} seed {row['seed']}: {row['reason']}" for row in document["cells"] if row["reason"]]
    return "Failed:\n\n" + "\n".join(lines) if lines else ""


def _state(row: Row) -> str:
    parts = [str(len(row["seeds"]))] if row["seeds"] else []
    parts += [f"{row['failed']} failed"] if row["failed"] else []
    parts += [f"{row['not_run']} not run"] if row["not_run"] else []
    return ", ".join(parts)


def _spread(values: Sequence[float]) -> str:
    mean = _mean(values)
    if mean is None:
        return ""
    variance = sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)
    return spread({"mean": mean, "sd": variance**0.5 if len(values) > 1 else None})


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
