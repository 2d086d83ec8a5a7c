"""From the folders of cells to one document: curves over clicks, areas under them, paired differences. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from mpamatch.experiments import statistics
from mpamatch.experiments.machine import machine
from mpamatch.experiments.plans import CELL_ERROR, CELL_RESULT
from mpamatch.experiments.protocol import Division
from mpamatch.experiments.results import RESAMPLING_SEED, Row, finite, listed, reason_line
from mpamatch.experiments.simulation.curves import AXES, SETS, Curve, common_end
from mpamatch.experiments.simulation.oracle import COST
from mpamatch.experiments.simulation.plan import ALL_LABELS, START, SimulatedCell, Simulation
from mpamatch.experiments.simulation.strategies import BY_CHANCE, simulated_strategy
from mpamatch.experiments.simulation.verdict import verdict

NAME, QUESTION = "simulate", "Which strategy learns most from the same clicks?"
TARGET_SHARE: Final = 0.95
"""Of what all labels reach."""


def collect(simulation: Simulation, cells: Sequence[SimulatedCell], division: Division, out: Path) -> Row:
    """The document of a simulation as far as it has run; every Dice and share is a fraction, nan is null.

    Curves begin with the start of their seed, at no clicks. The common range of an axis goes as far as every cell that
    is done. Cells are ``done``, ``failed`` with a reason, or ``not run``.
    """
    found = {(cell.strategy, cell.seed): _read(cell, simulation, out) for cell in cells}
    starts = {seed: _rounds(row) for (name, seed), row in found.items() if name == START}
    curves = {
        (name, seed): Curve.of([*starts[seed], *_rounds(row)])
        for (name, seed), row in found.items()
        if name not in (START, ALL_LABELS) and row["state"] == "done" and starts[seed]
    }
    ends = {axis: common_end(list(curves.values()), axis) for axis in AXES}
    whole = {seed: _rounds(row)[-1] for (name, seed), row in found.items() if name == ALL_LABELS and _rounds(row)}
    strategies = {name: _strategy(name, simulation.seeds, found, curves, ends, whole) for name in simulation.strategies}
    differences = _differences(simulation, curves, ends)
    document = {
        "experiment": NAME,
        "question": QUESTION,
        "dataset": {
            "name": simulation.dataset,
            "classes": list(division.data.class_names),
            "lists": [
                {
                    "train": listed([item.name for item in division.train]),
                    "scored": listed([item.name for item in division.scored]),
                }
            ],
        },
        "protocol": _protocol(simulation, cells, found, ends),
        "machine": machine(),
        "strategies": strategies,
        "all_labels": {
            "seeds": sorted(whole),
            **{name: [whole[seed][name]["mdice"] for seed in sorted(whole)] for name in SETS},
        },
        "differences": differences,
        "cells": [_cell_row(cell, found[cell.strategy, cell.seed]) for cell in cells],
    }
    document = finite(document)
    return {**document, "verdict": verdict(document)}


def compared(strategies: Sequence[str]) -> list[tuple[str, str]]:
    """Which pairs are compared: each strategy with those by chance, and a cut one with the whole."""
    pairs = []
    for name in strategies:
        later = BY_CHANCE[BY_CHANCE.index(name) + 1 :] if name in BY_CHANCE else BY_CHANCE
        pairs += [(name, other) for other in later if other in strategies]
        whole = simulated_strategy(name).part_of
        pairs += [(name, whole)] if whole is not None and whole in strategies else []
    return pairs


def _read(cell: SimulatedCell, simulation: Simulation, out: Path) -> Row:
    folder = out / cell.place
    if (folder / CELL_RESULT).is_file():
        row = json.loads((folder / CELL_RESULT).read_text(encoding="utf-8"))
        return {**row, "state": "done", "reason": None}
    if (folder / CELL_ERROR).is_file():
        said = json.loads((folder / CELL_ERROR).read_text(encoding="utf-8"))
        places = [(out, "OUT"), (simulation.root, "ROOT"), (simulation.weights_dir, "WEIGHTS")]
        return {"state": "failed", "reason": reason_line(said, places)}
    return {"state": "not run", "reason": None}


def _rounds(row: Mapping[str, Any]) -> list[Row]:
    return list(row.get("rounds", ()))


def _strategy(
    name: str,
    seeds: int,
    found: Mapping[tuple[str, int], Row],
    curves: Mapping[tuple[str, int], Curve],
    ends: Mapping[str, float],
    whole: Mapping[int, Row],
) -> Row:
    """A strategy's figures, a value for each seed that is done, seed by seed; the curve in means over them."""
    done = [seed for seed in range(seeds) if (name, seed) in curves]
    mine = [curves[name, seed] for seed in done]
    rows = [found[name, seed] for seed in done]
    bought = [one for row in rows for one in row["bought"]]
    targets = [TARGET_SHARE * whole[seed]["val"]["mdice"] if seed in whole else None for seed in done]
    states = [found[name, seed]["state"] for seed in range(seeds)]
    return {
        "driven_by_model": simulated_strategy(name).driven_by_model,
        "seeds": done,
        "failed": states.count("failed"),
        "not_run": states.count("not run"),
        "reasons": sorted({row["reason"] for (one, _), row in found.items() if one == name and row["reason"]}),
        **{f"aubc_{axis}": [one.mean(axis, ends[axis]) for one in mine] for axis in AXES},
        "aubc_clicks_pool": [one.mean("clicks", ends["clicks"], "pool") for one in mine],
        "mdice": [float(one.mdice["val"][-1]) for one in mine],
        "pool_mdice": [float(one.mdice["pool"][-1]) for one in mine],
        "clicks_to_target": [
            None if target is None else one.reaches(target) for one, target in zip(mine, targets, strict=True)
        ],
        "bought": {
            "boxes": [row["rounds"][-1]["boxes"] for row in rows],
            "images": [row["rounds"][-1]["images"] for row in rows],
            **{axis: [row["rounds"][-1][axis] for row in rows] for axis in AXES},
            "wrong_share": _mean([one["wrong_share"] for one in bought]),
            "strata": {s: [one["stratum"] for one in bought].count(s) for s in _strata(bought)},
        },
        "curve": _curve(mine),
        "curves": [_points(seed, one) for seed, one in zip(done, mine, strict=True)],
    }


def _strata(bought: Sequence[Row]) -> list[str]:
    return sorted({one["stratum"] for one in bought})


def _curve(curves: Sequence[Curve]) -> list[Row]:
    """Round by round, means and spread over seeds."""
    if not curves:
        return []
    return [
        {
            "round": place,
            **{axis: _mean([one.at[axis][place] for one in curves]) for axis in AXES},
            **{name: vars(statistics.summary([float(c.mdice[name][place]) for c in curves])) for name in SETS},
        }
        for place in range(len(curves[0].at["clicks"]))
    ]


def _points(seed: int, curve: Curve) -> Row:
    sets = {name: curve.mdice[name].tolist() for name in SETS}
    return {"seed": seed, **{axis: curve.at[axis].tolist() for axis in AXES}, **sets}


def _differences(
    simulation: Simulation, curves: Mapping[tuple[str, int], Curve], ends: Mapping[str, float]
) -> list[Row]:
    """One row for each pair of strategies and each set: seeds in which both are done."""
    found = []
    for name, baseline in compared(simulation.strategies):
        seeds = [s for s in range(simulation.seeds) if (name, s) in curves and (baseline, s) in curves]
        for on in SETS if seeds else ():
            sides = [[curves[one, seed] for seed in seeds] for one in (name, baseline)]
            values = [[curve.mean("clicks", ends["clicks"], on) for curve in side] for side in sides]
            scored = [[curve.scored("clicks", ends["clicks"], on) for curve in side] for side in sides]
            drawn = statistics.paired_bootstrap(scored[0], scored[1], seed=RESAMPLING_SEED)
            found.append(
                {
                    "strategy": name,
                    "baseline": baseline,
                    "set": on,
                    "score": "aubc_clicks",
                    **vars(statistics.paired_difference(values[0], values[1])),
                    "bootstrap": list(drawn),
                    "pairs": [
                        {"seed": seed, "difference": first - second}
                        for seed, first, second in zip(seeds, *values, strict=True)
                    ],
                }
            )
    return found


def _protocol(
    simulation: Simulation,
    cells: Sequence[SimulatedCell],
    found: Mapping[tuple[str, int], Row],
    ends: Mapping[str, float],
) -> Row:
    """What all cells share, in words where a name would not do."""
    one = cells[0]
    starts = [row for (name, _), row in found.items() if name == START and row["state"] == "done"]
    return {
        "profile": simulation.profile,
        "method": one.recipe.method,
        "encoder": one.recipe.encoder,
        "rounds": one.rounds,
        "seeds": list(range(simulation.seeds)),
        "steps": {"start": one.steps_of(0), "round": one.steps_of(1)},
        "cold_rounds": one.cold_rounds,
        "labelled_at_start": one.labelled,
        "start_clicks": [row["start_clicks"] for row in starts],
        "start_area_share": [row["start_area_share"] for row in starts],
        "budget_clicks": one.budget_clicks,
        "common_clicks": ends["clicks"],
        "common_seconds": ends["seconds"],
        "common_area_share": ends["area_share"],
        "box_side_px": one.box_side_px,
        "reduction": sorted({row["reduction"] for start in starts for row in start["rounds"]}),
        "target_share": TARGET_SHARE,
        "cost": vars(COST),
        "knobs": dict(simulation.knobs),
        "threads": simulation.threads,
        "interval": f"{statistics.CONFIDENCE:.0%}, Student's t over seeds; bootstrap of {statistics.BOOTSTRAP_DRAWS}"
        f" draws over seeds and images, seed {RESAMPLING_SEED}",
    }


def _cell_row(cell: SimulatedCell, row: Row) -> Row:
    """A cell's figures without its images and its answers one by one, which stay with the cell."""
    rounds = [{**one, **{on: _without(one[on], "per_image") for on in SETS}} for one in _rounds(row)]
    return {"strategy": cell.strategy, "seed": cell.seed, **_without(row, "bought"), "rounds": rounds}


def _without(row: Mapping[str, Any], key: str) -> Row:
    return {name: value for name, value in row.items() if name != key}


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
