"""One cell in a process of its own: prepare its run folder, train it, score it once, leave `cell.json` behind.

Each stage finds what an earlier process finished. Needs torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpamatch.datasets import DatasetItem, open_dataset
from mpamatch.datasets.protocols import draw_labelled
from mpamatch.domain.classes import IGNORE, ClassSet
from mpamatch.domain.prompts import noisy_texts
from mpamatch.errors import BadInput, Conflict
from mpamatch.experiments.plans import CELL_RESULT, read_plan
from mpamatch.experiments.protocol import Cell, Division, divide
from mpamatch.experiments.regimes import BOX_SIDE_PX, boxed
from mpamatch.experiments.scoring import Masked, score_at_working_scale
from mpamatch.files.images import image_size
from mpamatch.files.model_archive import weights_sha256
from mpamatch.files.prompts import class_texts
from mpamatch.files.rasters import encode_raster
from mpamatch.files.whole_files import write_whole
from mpamatch.network.devices import peak_memory_mib
from mpamatch.network.weights import dump_json, load_model, read_config
from mpamatch.training.batches import Sample, read_class_ids
from mpamatch.training.pace import told_steps
from mpamatch.training.run_files import CHECKPOINT_NAME, MODEL_NAME, PROGRESS_NAME
from mpamatch.training.run_folder import train_run
from mpamatch.training.run_spec import RUN_NAME, RunSpec, read_run

_MASKS, _MEMORY = "masks", "memory.json"
_BOXES = 7
"""What the boxes of sparse labels are drawn for: the second number of their seed."""

Pixels = NDArray[np.uint8]


def run_cell(
    folder: Path,
    *,
    clock: Callable[[], float],
    stop: Callable[[], bool],
    tell: Callable[[Mapping[str, Any]], None] = lambda event: None,
) -> dict[str, Any]:
    """Bring the cell of a folder to its end and return what `cell.json` holds.

    Raises Cancelled when ``stop`` says so (training keeps its checkpoint), and the errors of what it reads.
    """
    cell = read_plan(folder, Cell)
    division = divide(open_dataset(cell.dataset, cell.root), cell.fold, cell.folds)
    if not (folder / RUN_NAME).is_file() or read_run(folder).weights_dir != cell.weights_dir:
        _prepare(folder, cell, division)
    try:
        result = train_run(folder, clock=clock, stop=stop, tell=tell)
    finally:
        memory_mib = note_memory(folder)
    done = _figures(cell, result, memory_mib, _last_pace(folder))
    if cell.scored:
        done |= _scores(folder, cell, division, stop)
    write_whole(folder / CELL_RESULT, dump_json(done).encode())
    if not cell.keep_models:
        for name in (CHECKPOINT_NAME, MODEL_NAME, _MASKS):
            shutil.rmtree(folder / name, ignore_errors=True)
    return done


def _prepare(folder: Path, cell: Cell, division: Division) -> None:
    """The masks of the labelled images, and run.json last."""
    if cell.start is not None:
        if cell.start_sha256 is not None and weights_sha256(cell.start) != cell.start_sha256:
            problem = "has other weights than when the experiment was begun"
            raise Conflict(f"start {cell.start.name}", problem, "give the model that it began with, or another --out")
        begins = read_config(cell.start).encoder.name
        if begins != cell.recipe.encoder:
            problem = f"has the encoder {begins}, the cell {cell.recipe.encoder}"
            raise BadInput(f"start {cell.start.name}", problem, "give --encoder, or another --start")
    chosen = draw_labelled(division.train, cell.labelled, cell.seed)
    (folder / _MASKS).mkdir(parents=True, exist_ok=True)
    labelled, pool = [], []
    for tile, item in enumerate(division.train):
        sample = Sample(tile, item.group, item.image.resolve())
        pool.append(sample)
        if item.name in chosen:
            path = (folder / _MASKS / f"{tile}.png").resolve()
            path.write_bytes(encode_raster(_labels(cell, item, tile, division.data.read_mask(item))))
            labelled.append(replace(sample, mask=path))
    spec = RunSpec(
        seed=cell.seed,
        recipe=cell.recipe,
        classes=_classes(cell, division),
        version=f"{cell.arm}-{cell.seed}",
        labelled=tuple(labelled),
        pool=tuple(pool),
        start=cell.start,
        full_schedule=cell.start is not None,
        threads=cell.threads,
        weights_dir=cell.weights_dir,
        provenance={"dataset": division.data.name},
    )
    write_whole(folder / RUN_NAME, (json.dumps(spec.to_json(), indent=1) + "\n").encode())


def _classes(cell: Cell, division: Division) -> ClassSet:
    """The classes of the data set; with texts of their own only where some of the words are replaced."""
    classes = ClassSet.from_names(division.data.class_names)
    if not cell.noise_words:
        return classes
    texts = class_texts(classes.names, cell.recipe.prompts, dataset=division.data.name)
    return classes.with_prompts(noisy_texts(texts, cell.noise_words, cell.seed))


def _labels(cell: Cell, item: DatasetItem, tile: int, mask: Pixels) -> Pixels:
    """What of an image's mask is known in training; equal for all arms of a seed."""
    if cell.regime != "sparse":
        return mask
    reduction = cell.recipe.reduction_for(max(image_size(item.image)))
    rng = np.random.default_rng([cell.seed, _BOXES, tile])
    return boxed(mask, side_px=round(BOX_SIDE_PX * reduction), rng=rng)


def _figures(cell: Cell, result: Mapping[str, Any], memory_mib: float, last_pace: float | None) -> dict[str, Any]:
    """What a training says of itself."""
    return {
        "arm": cell.arm,
        "seed": cell.seed,
        "fold": cell.fold,
        "method": cell.recipe.method,
        "recipe_sha256": cell.recipe.sha256(),
        "steps": result["steps"],
        "seconds": result["seconds"],
        "seconds_per_step": result["seconds"] / result["steps"],
        "last_seconds_per_step": last_pace,
        "peak_memory_mib": memory_mib,
        "parameters": result["parameters"],
        "reduction": result["reduction"],
        "losses": result["losses"],
        "mask_ratio": result["mask_ratio"],
        "labelled_images": cell.labelled,
        "notes": result["notes"],
    }


def _scores(folder: Path, cell: Cell, division: Division, stop: Callable[[], bool]) -> dict[str, Any]:
    """Figures on the images to score and on the pool's hidden labels, at the scale that the cell was trained at."""
    spec = read_run(folder)
    loaded = load_model(folder / MODEL_NAME, weights_dir=spec.weights_dir)
    known = {sample.tile: sample.mask for sample in spec.labelled}
    count, tau = spec.classes.count, cell.recipe.tau

    def masked(items: Sequence[tuple[DatasetItem, Path | None]]) -> Iterator[Masked]:
        for item, seen in items:
            mask = division.data.read_mask(item)
            if seen is not None:  # what was labelled is no longer hidden
                mask = np.where(read_class_ids(seen, count) != IGNORE, np.uint8(IGNORE), mask)
            yield item, mask

    held_out = [(item, None) for item in division.scored]
    pool = [(item, known.get(tile)) for tile, item in enumerate(division.train)]
    hidden = [(item, seen) for item, seen in pool if seen is None or cell.regime == "sparse"]
    return {
        "labelled": sorted(division.train[tile].name for tile in known),
        "val": score_at_working_scale(loaded, masked(held_out), tau=tau, stop=stop),
        "pool": score_at_working_scale(loaded, masked(hidden), tau=tau, stop=stop) if hidden else None,
    }


def note_memory(folder: Path) -> float:
    """The most memory that any process held while it trained this cell, in MiB; kept for the next one."""
    path = folder / _MEMORY
    before = float(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0.0
    most = max(before, peak_memory_mib())
    write_whole(path, json.dumps(most).encode())
    return most


def _last_pace(folder: Path) -> float | None:
    """Seconds a step at the end of the training, when everything is on; None without a report."""
    paces = [row["seconds_per_step"] for row in told_steps(folder / PROGRESS_NAME)]
    return paces[-1] if paces else None
