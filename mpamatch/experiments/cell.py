"""One cell in a process of its own: prepare its run folder, train it, score it once, leave `cell.json` behind.

Each stage finds what an earlier process finished. Needs torch.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
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
from mpamatch.errors import BadInput, Cancelled
from mpamatch.experiments.protocol import CELL_RESULT, Cell, Division, divide, read_cell
from mpamatch.experiments.regimes import BOX_SIDE_PX, boxed
from mpamatch.files.images import image_size, read_image
from mpamatch.files.prompts import class_texts
from mpamatch.files.rasters import encode_raster
from mpamatch.files.whole_files import write_whole
from mpamatch.inference import Predictor
from mpamatch.network.pixels import reduce_image, reduce_mask
from mpamatch.network.weights import LoadedModel, WorkingScale, dump_json, load_model, read_config
from mpamatch.training.batches import Sample, read_class_ids
from mpamatch.training.evaluation import Evaluation, evaluate
from mpamatch.training.pace import told_steps
from mpamatch.training.run_folder import CHECKPOINT_NAME, MODEL_NAME, PROGRESS_NAME, train_run
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
    cell = read_cell(folder)
    division = divide(open_dataset(cell.dataset, cell.root), cell.fold, cell.folds)
    if not (folder / RUN_NAME).is_file() or read_run(folder).weights_dir != cell.weights_dir:
        _prepare(folder, cell, division)
    try:
        result = train_run(folder, clock=clock, stop=stop, tell=tell)
    finally:
        memory_mib = _note_memory(folder)
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
    noisy = noisy_texts(texts, cell.noise_words, cell.seed)
    return ClassSet(tuple(replace(one, prompts=of) for one, of in zip(classes.classes, noisy, strict=True)))


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
    reduction = loaded.config.scale.reduction or 1.0
    # Images are shrunk here, masks alike; the model is not to shrink them again.
    predictor = Predictor(LoadedModel(loaded.module, replace(loaded.config, scale=WorkingScale(1.0))))
    known = {sample.tile: sample.mask for sample in spec.labelled}
    count, tau = spec.classes.count, cell.recipe.tau

    def pairs(items: Sequence[tuple[DatasetItem, Path | None]]) -> Iterator[tuple[str, Pixels, Pixels]]:
        for item, seen in items:
            if stop():
                raise Cancelled(cell.arm, "stopped while it was scored", "start it again to resume")
            mask = division.data.read_mask(item)
            if seen is not None:  # what was labelled is no longer hidden
                mask = np.where(read_class_ids(seen, count) != IGNORE, np.uint8(IGNORE), mask)
            yield item.name, reduce_image(read_image(item.image), reduction), reduce_mask(mask, reduction)

    held_out = [(item, None) for item in division.scored]
    pool = [(item, known.get(tile)) for tile, item in enumerate(division.train)]
    hidden = [(item, seen) for item, seen in pool if seen is None or cell.regime == "sparse"]
    return {
        "labelled": sorted(division.train[tile].name for tile in known),
        "val": _set_figures(evaluate(predictor, spec.classes, pairs(held_out), tau=tau)),
        "pool": _set_figures(evaluate(predictor, spec.classes, pairs(hidden), tau=tau)) if hidden else None,
    }


def _set_figures(done: Evaluation) -> dict[str, Any]:
    values = done.to_json()
    per_image = [row["foreground_dice"] for row in values["per_image"] if row["foreground_dice"] is not None]
    known = [value for value in per_image if not np.isnan(value)]
    names = ("images", "mdice", "foreground_dice", "ece", "confident_share", "confident_accuracy")
    return {
        **{name: values[name] for name in names},
        "image_foreground_dice": float(np.mean(known)) if known else float("nan"),
        "per_image": [{"image": one.name, "confusion": one.confusion.tolist()} for one in done.images],
    }


def _note_memory(folder: Path) -> float:
    """The most memory that any process held while it trained this cell, in MiB; kept for the next one."""
    path = folder / _MEMORY
    before = float(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else 0.0
    most = max(before, peak_memory_mib())
    write_whole(path, json.dumps(most).encode())
    return most


def peak_memory_mib() -> float:
    """The most resident memory this process has held, in MiB.

    Linux's getrusage also counts the parent at the time of the fork; the status file does not.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def _last_pace(folder: Path) -> float | None:
    """Seconds a step at the end of the training, when everything is on; None without a report."""
    paces = [row["seconds_per_step"] for row in told_steps(folder / PROGRESS_NAME)]
    return paces[-1] if paces else None
