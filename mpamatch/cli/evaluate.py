"""`mpamatch evaluate`: a model against masks, as figures that other programs read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpamatch.cli.lifetime import use_threads
from mpamatch.errors import BadInput

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mpamatch.cli.sources import ReadMask
    from mpamatch.datasets import DatasetItem

_FOLDER = {"file_okay": False, "exists": True}


def evaluate(
    model: Annotated[Path, typer.Option(help="A model folder, or the folder that train wrote.")],
    images: Annotated[Path | None, typer.Option(help="A folder of images.", **_FOLDER)] = None,
    masks: Annotated[Path | None, typer.Option(help="Masks of those images, of the same names.", **_FOLDER)] = None,
    dataset: Annotated[str | None, typer.Option(help="A published data set by name, instead of folders.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data set lies.", **_FOLDER)] = None,
    split: Annotated[str, typer.Option(help="train, val or all of the data set.")] = "val",
    foreground: Annotated[bool, typer.Option(help="Any mask value above 0 is class 1.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Score a model on images with masks: Dice, IoU and calibration error as fractions.

    mdice is per class over all pixels of the set, then the mean over classes with background; foreground_dice is the
    same without it. Images are brought to the model's scale and scored at the mask's own size. A mask with a value
    that is no class is refused, unless --foreground says that any value above 0 is class 1.
    """
    from mpamatch.cli.sources import open_source
    from mpamatch.network.weights import dump_json, read_config

    use_threads(threads)
    config = read_config(model)
    names = config.classes.names
    source = open_source(dataset, root, images, masks, names, foreground=foreground, split=split)
    if source.classes.count != len(names):
        problem = f"has {source.classes.count} classes, the model {len(names)} ({', '.join(names)})"
        raise BadInput(source.name, problem, "give a model of the same classes")
    if not source.masked:
        raise BadInput(source.name, "none of its images has a mask", "give --masks, or masks beside the images")
    figures = score(model, source.masked, source.read_mask)
    print(json.dumps(json.loads(dump_json(figures))) if as_json else _table(figures))


def score(model: Path, items: Sequence[DatasetItem], read_mask: ReadMask) -> dict[str, Any]:
    """The figures of :class:`mpamatch.training.evaluation.Evaluation` for a model folder and masked items."""
    from mpamatch.cli.progress import progress_bar
    from mpamatch.files.images import read_image
    from mpamatch.inference import Predictor
    from mpamatch.network.weights import load_model
    from mpamatch.training import evaluation

    loaded = load_model(model)
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=len(items))

        def pairs() -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
            for item in items:
                image, mask = read_image(item.image), read_mask(item)
                if mask.shape != image.shape[:2]:
                    raise BadInput(item.name, f"mask {mask.shape}, image {image.shape[:2]}", "give masks of its size")
                yield item.name, image, mask
                bar.advance(task)

        done = evaluation.evaluate(Predictor(loaded), loaded.config.classes, pairs(), tau=loaded.config.recipe.tau)
    return done.to_json()


def _table(figures: dict[str, Any]) -> str:
    lines = [f"{name:16} {figures[name]:.4f}" for name in ("mdice", "miou", "foreground_dice", "ece")]
    lines += [f"  {row['class']:14} Dice {row['dice']:.4f}  IoU {row['iou']:.4f}" for row in figures["per_class"]]
    return "\n".join([f"{figures['images']} images", *lines])
