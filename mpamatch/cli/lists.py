"""`mpamatch lists`: which images of a data set are labelled, pool, audit and test, drawn once and written down."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mpamatch.cli.chosen_data import HELP as DATASET_HELP


def lists(
    dataset: Annotated[str, typer.Option(help=DATASET_HELP)],
    root: Annotated[Path, typer.Option(help="Where the data set lies.", file_okay=False, exists=True)],
    labelled: Annotated[int | None, typer.Option(min=1, help="How many images are labelled.")] = None,
    share: Annotated[
        float | None, typer.Option(help="Or which share of the images with a mask, above 0 and up to 1.")
    ] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Or a published partition of a whole set: glas-10, glas-20, crag-10, crag-20.")
    ] = None,
    least: Annotated[int, typer.Option(min=0, help="Labelled images of each kind at least.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Decides the draw.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The file to write; unset: stdout.", dir_okay=False)] = None,
) -> None:
    """Draw the images of an experiment: labelled ones spread over patients, then over kinds (tissue, grade, model).

    One JSON document of names and seed, which train takes with --lists. The same command gives the same document. A
    data set whose train and validation images share a patient is refused.
    """
    from mpamatch.datasets import open_dataset
    from mpamatch.datasets.protocols import count_of, draw_lists, named_protocol

    if sum(choice is not None for choice in (labelled, share, protocol)) != 1:
        raise typer.BadParameter("give one of --labelled, --share and --protocol")
    data = open_dataset(dataset, root)
    if protocol is not None:
        made = named_protocol(protocol).lists(data.items(), seed)
    else:
        train = data.items("train")
        masked = sum(item.mask is not None for item in train)
        count = labelled if labelled is not None else count_of(share or 0.0, masked)
        audit, test = data.items("val"), data.items("test")
        made = draw_lists(data.name, train, audit, count, seed, least=least, test=test)
    text = json.dumps(made.to_json(), indent=1) + "\n"
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")
        print(f"{len(made.labelled)} labelled, {len(made.pool)} pool, {len(made.audit)} audit images in {out}")
