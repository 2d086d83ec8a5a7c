"""From the folders of cells to one document: every cell's figures, means by arm, paired differences. No torch."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpamatch.domain.metrics import mean_iou
from mpamatch.experiments import statistics
from mpamatch.experiments.arms import Arm, Experiment
from mpamatch.experiments.machine import machine
from mpamatch.experiments.plans import CELL_ERROR, CELL_RESULT
from mpamatch.experiments.protocol import Cell, Protocol, divisions_of
from mpamatch.experiments.regimes import BOX_SIDE_PX

SETS = ("val", "pool")
SCORES = ("mdice", "foreground_dice", "image_foreground_dice", "ece", "confident_share", "confident_accuracy")
COSTS = ("steps", "seconds", "seconds_per_step", "last_seconds_per_step", "peak_memory_mib")
COMPARED = ("mdice", "foreground_dice", "image_foreground_dice")
RESAMPLING_SEED = 0
_NOT_THERE = ("NotFound", "Unavailable")

Row = dict[str, Any]


def collect(experiment: Experiment, protocol: Protocol, cells: Sequence[Cell], out: Path) -> Row:
    """The document of an experiment as far as it has run; every Dice, share and ECE is a fraction, nan is null.

    ``val`` is the validation list, or the left-out fold; ``pool`` the train images without labels, by their hidden
    masks. Cells are ``done``, ``failed`` with a reason, or ``not run``.
    """
    rows = [_cell_row(cell, experiment.arm(cell.arm), protocol, out) for cell in cells]
    scores = {(row["arm"], row["seed"], row["fold"]): row.pop("per_image") for row in rows}
    by_arm = {arm.name: [row for row in rows if row["arm"] == arm.name] for arm in experiment.arms}
    return {
        "experiment": experiment.name,
        "question": experiment.question,
        "dataset": _dataset(protocol),
        "protocol": _protocol(protocol, experiment, cells),
        "machine": machine(),
        "methods": {arm.name: _method_row(by_arm[arm.name], scores) for arm in experiment.arms},
        "arms": [_arm_row(arm, experiment, by_arm[arm.name]) for arm in experiment.arms],
        "differences": [
            one
            for arm, baseline, equal in comparisons(experiment)
            for one in _differences((arm, baseline, equal), by_arm[arm], by_arm[baseline], scores)
        ],
        "cells": rows,
    }


def comparisons(experiment: Experiment) -> list[tuple[str, str, str]]:
    """Arm, what it is compared with, and what of the two is equal: the steps, or the training seconds."""
    names = {arm.name for arm in experiment.arms}
    rivals = [(arm, rival, "steps") for arm, rival in experiment.rivals if arm in names]
    plain = [(arm.name, experiment.baseline_of(arm), "steps") for arm in experiment.arms if arm.seconds_of is None]
    timed = [(arm.seconds_of, arm.name, "seconds") for arm in experiment.arms if arm.seconds_of is not None]
    return [one for one in (*plain, *rivals, *timed) if one[1] in names and one[0] != one[1]]


def finite(value: Any) -> Any:
    """The value with every figure that is not finite as None, for JSON."""
    if isinstance(value, Mapping):
        return {key: finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def listed(names: Sequence[str]) -> Row:
    """A list of images as a document tells it: how many, and a checksum of their names."""
    return {"images": len(names), "sha256": hashlib.sha256("\n".join(names).encode()).hexdigest()}


def reason_line(said: Mapping[str, Any], places: Sequence[tuple[Path | None, str]]) -> str:
    """Why a cell failed, in one line without the places of this machine: the document is made to be shown."""
    text = f"{said['item']}: {said['problem']}"
    for folder, name in (*places, (Path.home(), "~")):
        if folder is not None:
            text = text.replace(str(folder.resolve()), name)
    return " ".join(text.split())


def _dataset(protocol: Protocol) -> Row:
    divisions = divisions_of(protocol)
    return {
        "name": protocol.dataset,
        "classes": list(divisions[0].data.class_names),
        "lists": [
            {"train": listed([i.name for i in one.train]), "scored": listed([i.name for i in one.scored])}
            for one in divisions
        ],
        "notes": len(divisions[0].data.problems),
    }


def _protocol(protocol: Protocol, experiment: Experiment, cells: Sequence[Cell]) -> Row:
    """What all cells share, in words where a name would not do."""
    folds = ", each the mean of its folds" if protocol.folds else ""
    return {
        "profile": protocol.profile,
        "regime": protocol.regime,
        "seeds": list(range(protocol.seeds)),
        "folds": protocol.folds,
        "encoder": sorted({cell.recipe.encoder for cell in cells}),
        "start": None if protocol.start is None else protocol.start.name,
        "knobs": dict(protocol.knobs),
        "threads": protocol.threads,
        "scored": experiment.scored,
        "scored_at": "the working scale: images and masks shrunk by each cell's reduction; weights of the EMA teacher",
        "labels": f"two boxes of {BOX_SIDE_PX} px on each image" if protocol.regime == "sparse" else "whole images",
        "interval": f"{statistics.CONFIDENCE:.0%}, Student's t over seeds{folds}; bootstrap of"
        f" {statistics.BOOTSTRAP_DRAWS} draws over seeds and images, seed {RESAMPLING_SEED}",
    }


def _cell_row(cell: Cell, arm: Arm, protocol: Protocol, out: Path) -> Row:
    folder = out / cell.place
    row: Row = {"arm": cell.arm, "seed": cell.seed, "fold": cell.fold, "state": "not run", "reason": None}
    per_image: dict[str, Any] = {}
    if (folder / CELL_RESULT).is_file():
        done = json.loads((folder / CELL_RESULT).read_text(encoding="utf-8"))
        for name in SETS:
            if done.get(name):
                per_image[name] = done[name].pop("per_image")
        row |= {**done, "state": "done"}
    elif (folder / CELL_ERROR).is_file():
        said = json.loads((folder / CELL_ERROR).read_text(encoding="utf-8"))
        places = [(out, "OUT"), (protocol.root, "ROOT"), (protocol.weights_dir, "WEIGHTS")]
        # Weights that nobody brought, or a way of tuning that this encoder does not know.
        lacks = arm.may_lack and (said.get("kind") in _NOT_THERE or said.get("item") == "recipe.tuning")
        row |= {"state": "not run" if lacks else "failed", "reason": reason_line(said, places)}
    return {**row, "per_image": per_image}


def _arm_row(arm: Arm, experiment: Experiment, rows: Sequence[Row]) -> Row:
    done = [row for row in rows if row["state"] == "done"]
    figures = {name: _summary([row[name] for row in done]) for name in COSTS}
    sets = {
        name: {score: _summary([row[name][score] for row in done if row.get(name)]) for score in SCORES}
        for name in SETS
        if experiment.scored
    }
    return {
        "arm": arm.name,
        "method": arm.method,
        "knobs": dict(arm.knobs),
        "baseline": experiment.baseline_of(arm),
        "recipe_sha256": sorted({row["recipe_sha256"] for row in done}),
        "labelled_images": sorted({row["labelled_images"] for row in done}),
        "reduction": sorted({row["reduction"] for row in done}),
        "done": len(done),
        "failed": sum(row["state"] == "failed" for row in rows),
        "not_run": sum(row["state"] == "not run" for row in rows),
        "reasons": sorted({row["reason"] for row in rows if row["reason"]}),
        **figures,
        **sets,
    }


def _method_row(rows: Sequence[Row], scores: Mapping[Any, Mapping[str, Any]]) -> Row:
    """An arm's figures on what is scored, a value for each cell that is done, seed by seed; ``steps`` in the median."""
    done = [row for row in rows if row["state"] == "done" and row.get("val")]
    pooled = [_scored(scores[row["arm"], row["seed"], row["fold"]]["val"]).confusions.sum(axis=0) for row in done]
    return {
        "mdice": [finite(row["val"]["mdice"]) for row in done],
        "miou": [finite(mean_iou(matrix)) for matrix in pooled],
        "steps": round(float(np.median([row["steps"] for row in done]))) if done else None,
        "seconds": [row["seconds"] for row in done],
    }


def _summary(values: Sequence[float | None]) -> Row:
    found = statistics.summary([float("nan") if value is None else value for value in values])
    return dict(finite(vars(found)))


def _differences(
    compared: tuple[str, str, str],
    rows: Sequence[Row],
    base_rows: Sequence[Row],
    scores: Mapping[Any, Mapping[str, Any]],
) -> list[Row]:
    """One row for each set and score, over the seeds and folds in which both arms are done; ``n`` counts seeds."""
    base = {(row["seed"], row["fold"]): row for row in base_rows if row["state"] == "done"}
    pairs = [(row, base[key]) for row in rows if row["state"] == "done" and (key := (row["seed"], row["fold"])) in base]
    found = []
    for name in SETS:
        both = [(a, b) for a, b in pairs if a.get(name) and b.get(name)]
        if not both:
            continue
        seeds = [a["seed"] for a, _ in both]
        resampled = _bootstrap(name, both, scores, seeds)
        for score in COMPARED:
            values = [[_nan(row[name][score]) for row in side] for side in zip(*both, strict=True)]
            drawn = resampled if score == "mdice" else None
            found.append(
                {
                    **dict(zip(("arm", "baseline", "at_equal"), compared, strict=True)),
                    "set": name,
                    "score": score,
                    **finite(vars(statistics.paired_difference(values[0], values[1], groups=seeds))),
                    "bootstrap": None if drawn is None else finite(list(drawn)),
                    "pairs": [
                        {"seed": a["seed"], "fold": a["fold"], "difference": finite(x - y)}
                        for (a, _), x, y in zip(both, *values, strict=True)
                    ],
                }
            )
    return found


def _bootstrap(
    name: str, pairs: Sequence[tuple[Row, Row]], scores: Mapping[Any, Mapping[str, Any]], seeds: Sequence[int]
) -> tuple[float, float] | None:
    """The interval over seeds and images; None where the two arms could not score the same images."""
    sides = [
        [_scored(scores[row["arm"], row["seed"], row["fold"]][name]) for row in side]
        for side in zip(*pairs, strict=True)
    ]
    if [one.images for one in sides[0]] != [one.images for one in sides[1]]:
        return None
    return statistics.paired_bootstrap(sides[0], sides[1], seed=RESAMPLING_SEED, groups=seeds)


def _scored(per_image: Sequence[Row]) -> statistics.ScoredSet:
    names = tuple(str(row["image"]) for row in per_image)
    return statistics.ScoredSet(names, np.array([row["confusion"] for row in per_image], np.int64))


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value
