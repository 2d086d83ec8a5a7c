"""What a training step costs by method: seconds and memory, and both as a ratio to two methods in the same run.

Each method trains the default encoder on drawn tiles in a process of its own, one thread, 4 + 4 crops of the profile
`small`, with everything on from the first step. The methods take turns, so that a busy hour strikes all of them.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Run as a file: the repository's root takes the place of this folder, where `queue` is not the standard library's.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.report import Figure, run
from mpamatch.datasets import open_dataset, phantom
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.recipe import METHODS, Recipe
from mpamatch.errors import MpamatchError

REFERENCES = ("supervised", "unimatch-ema")
# What prototypes may cost.
BOUNDS = {("mpamatch", "unimatch-ema"): 1.25}
STEPS, TURNS, WARM_UP_STEPS = 20, 3, 4
TILES, GROUPS, LABELLED, SIDE_PX = 16, 4, 4, 256
_EVERYTHING = {
    "ramp_start": 0.0,
    "ramp_end": 0.0,
    "prototype_start": 0.0,
    "prototype_ramp_end": 0.0,
    "prototype_pool_start": 0.0,
    "holdout_share": 0.0,
    "checkpoint_every": 100_000,
    "report_every": 1,
}


def one_turn(folder: Path) -> dict[str, float]:
    """Train the run of a folder in this process: median seconds of its later steps, and peak memory in MiB."""
    from mpamatch.network.devices import peak_memory_mib
    from mpamatch.training.run_folder import train_run

    times: list[float] = []

    def tell(event: Mapping[str, Any]) -> None:
        if event["event"] == "step":
            times.append(time.perf_counter())

    train_run(folder, clock=time.monotonic, tell=tell)
    steps = [after - before for before, after in itertools.pairwise(times)]
    return {"seconds": statistics.median(steps[WARM_UP_STEPS:] or steps), "memory_mib": peak_memory_mib()}


def write_run(folder: Path, drawn: Path, method: str, steps: int) -> Path:
    """A run folder of drawn tiles for a method; its masks are those of the drawn folder."""
    from mpamatch.files.rasters import encode_raster
    from mpamatch.training.batches import Sample
    from mpamatch.training.run_spec import RUN_NAME, RunSpec

    data = open_dataset("phantom", drawn)
    (folder / "masks").mkdir(parents=True)
    labelled, pool = [], []
    for tile, item in enumerate(data.items("all")):
        pool.append(Sample(tile, item.group, item.image))
        if tile < LABELLED:
            mask = folder / "masks" / f"{tile}.png"
            mask.write_bytes(encode_raster(data.read_mask(item)))
            labelled.append(Sample(tile, item.group, item.image, mask))
    spec = RunSpec(
        seed=0,
        recipe=Recipe.for_profile("small", method, steps_cold=steps, **_EVERYTHING),
        classes=ClassSet.from_names(data.class_names),
        version=method,
        labelled=tuple(labelled),
        pool=tuple(pool),
        threads=1,
    )
    (folder / RUN_NAME).write_text(json.dumps(spec.to_json()), encoding="utf-8")
    return folder


def measure(methods: Sequence[str] = METHODS, steps: int = STEPS, turns: int = TURNS) -> dict[str, Figure]:
    """Every method's figures; a method that cannot train here is named on stderr and left out."""
    taken: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        drawn = Path(scratch) / "drawn"
        phantom.write_folder(drawn, tiles=TILES, groups=GROUPS, size_px=SIDE_PX)
        for turn in range(turns):
            for method in methods:
                try:
                    folder = write_run(Path(scratch) / f"{method}-{turn}", drawn, method, steps)
                except MpamatchError as error:
                    print(f"{method}: {error}", file=sys.stderr)
                    continue
                if (row := _in_child(folder)) is not None:
                    taken.setdefault(method, []).append(row)
    return _figures(taken, steps, turns)


def _in_child(folder: Path) -> dict[str, float] | None:
    settings = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    child = subprocess.run(
        [sys.executable, __file__, "--turn", str(folder)],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        print(f"{folder.name}: {child.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return dict(json.loads(child.stdout.splitlines()[-1]))


def _figures(taken: Mapping[str, Sequence[Mapping[str, float]]], steps: int, turns: int) -> dict[str, Figure]:
    seconds = {method: statistics.median(row["seconds"] for row in rows) for method, rows in taken.items()}
    figures = {}
    for method, rows in taken.items():
        name = method.replace("-", "_")
        how = f"median of {steps} steps, then of {turns} turns; crops of 96 px, 4 + 4"
        figures[f"{name}_step_s"] = Figure(seconds[method], "s", None, how)
        memory = max(row["memory_mib"] for row in rows)
        figures[f"{name}_memory_mib"] = Figure(memory, "MiB", None, "most resident memory of the process")
        for reference in REFERENCES:
            if reference in seconds and reference != method:
                key = f"{name}_x_{reference.replace('-', '_')}"
                ratio = seconds[method] / seconds[reference]
                figures[key] = Figure(ratio, "x", BOUNDS.get((method, reference)), f"a step of {reference}")
    return figures


if __name__ == "__main__":
    if sys.argv[1:2] == ["--turn"]:
        print(json.dumps(one_turn(Path(sys.argv[2]))))
    else:
        run(measure, __doc__)
