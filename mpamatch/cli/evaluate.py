"""`mpamatch evaluate`: a model against masks, as figures that other programs read."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpamatch.cli.chosen_data import HELP as DATASET_HELP
from mpamatch.cli.chosen_model import HELP as MODEL_HELP
from mpamatch.cli.chosen_model import choose_model
from mpamatch.cli.lifetime import use_threads
from mpamatch.cli.weights_option import AllowHub, WeightsDir
from mpamatch.errors import BadInput, MpamatchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mpamatch.cli.sources import ReadMask
    from mpamatch.datasets import DatasetItem

_FOLDER = {"file_okay": False, "exists": True}


def evaluate(
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    images: Annotated[Path | None, typer.Option(help="A folder of images.", **_FOLDER)] = None,
    masks: Annotated[Path | None, typer.Option(help="Masks of those images, of the same names.", **_FOLDER)] = None,
    dataset: Annotated[str | None, typer.Option(help=DATASET_HELP)] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data set lies.", **_FOLDER)] = None,
    split: Annotated[str, typer.Option(help="train, val, test or all of the data set.")] = "val",
    foreground: Annotated[bool, typer.Option(help="Any mask value above 0 is class 1.")] = False,
    objects: Annotated[bool, typer.Option(help="Object Dice and Hausdorff 95 too (10 to 25 % more time).")] = True,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    weights_dir: WeightsDir = None,
    allow_hub: AllowHub = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Score a model on images with masks: Dice, IoU and calibration error as fractions.

    mdice is per class over all pixels of the set, then the mean over classes with background; foreground_dice is the
    same without it; per_image_mean holds the means over images, object Dice and Hausdorff 95 in pixels among them.
    Images are brought to the model's scale and scored at the mask's own size. A mask with a value that is no class is
    refused, unless --foreground says that any value above 0 is class 1. An image that cannot be scored is named and
    left out; the exit code is then 1.
    """
    from mpamatch.cli.sources import open_source
    from mpamatch.network.weights import dump_json, read_config

    use_threads(threads)
    folder = choose_model(model)
    config = read_config(folder)
    names = config.classes.names
    source = open_source(dataset, root, images, masks, names, foreground=foreground, split=split)
    if source.classes.count != len(names):
        problem = f"has {source.classes.count} classes, the model {len(names)} ({', '.join(names)})"
        raise BadInput(source.name, problem, "give a model of the same classes")
    if not source.masked:
        raise BadInput(source.name, "none of its images has a mask", "give --masks, or masks beside the images")
    figures = score(
        folder, source.masked, source.read_mask, objects=objects, weights_dir=weights_dir, allow_hub=allow_hub
    )
    print(json.dumps(json.loads(dump_json(figures))) if as_json else _table(figures))
    for problem in figures["problems"]:
        print(f"left out: {problem}", file=sys.stderr)
    if figures["problems"]:
        raise typer.Exit(1)


def score(
    model: Path,
    items: Sequence[DatasetItem],
    read_mask: ReadMask,
    *,
    objects: bool = False,
    weights_dir: Path | None = None,
    allow_hub: bool = False,
) -> dict[str, Any]:
    """The figures of :class:`mpamatch.training.evaluation.Evaluation` for a model folder and masked items.

    An image that cannot be scored is left out and named under ``problems``. Raises its error when none can be, and
    BadInput for a mask that holds what is no class.
    """
    from mpamatch.cli.progress import progress_bar
    from mpamatch.files.images import read_image
    from mpamatch.inference import Predictor
    from mpamatch.network.weights import load_model
    from mpamatch.training import evaluation

    loaded = load_model(model, weights_dir=weights_dir, allow_hub=allow_hub)
    problems: list[MpamatchError] = []
    with progress_bar() as bar:
        task = bar.add_task("evaluating", total=len(items))

        def pairs() -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
            for item in items:
                # A value that is no class is no slip of one file: that refusal ends the command.
                mask = read_mask(item)
                try:
                    image = read_image(item.image)
                    _check_same_size(item, image, mask)
                except MpamatchError as error:
                    problems.append(error)
                else:
                    yield item.name, image, mask
                bar.advance(task)

        tau = loaded.config.recipe.tau
        done = evaluation.evaluate(Predictor(loaded), loaded.config.classes, pairs(), tau=tau, objects=objects)
    if problems and not done.images:
        raise problems[0]
    return {**done.to_json(), "problems": [str(p) for p in problems]}


def _check_same_size(item: DatasetItem, image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
    if mask.shape != image.shape[:2]:
        sizes = f"mask {mask.shape[1]} x {mask.shape[0]} px, image {image.shape[1]} x {image.shape[0]} px"
        raise BadInput(item.name, sizes, "give masks of its size")


def _table(figures: dict[str, Any]) -> str:
    lines = [f"{name:16} {figures[name]:.4f}" for name in ("mdice", "miou", "foreground_dice", "ece")]
    lines += [f"{name:16} {value:.4f}, mean over images" for name, value in figures["per_image_mean"].items()]
    lines += [f"  {row['class']:14} Dice {row['dice']:.4f}  IoU {row['iou']:.4f}" for row in figures["per_class"]]
    return "\n".join([f"{figures['images']} images", *lines])
