"""`mpamatch adapt`: a model whose batch norms know the images of another source; nothing else of it changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpamatch.cli.chosen_model import HELP as MODEL_HELP
from mpamatch.cli.chosen_model import choose_model
from mpamatch.cli.lifetime import use_threads
from mpamatch.errors import BadInput, Conflict, MpamatchError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def adapt(
    model: Annotated[str, typer.Option(help=MODEL_HELP)],
    images: Annotated[Path, typer.Option(help="A folder of images, no masks.", file_okay=False, exists=True)],
    out: Annotated[Path, typer.Option(help="The new model's folder.", file_okay=False)],
    seed: Annotated[int, typer.Option(min=0, help="Decides which patches are looked at.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Patches of each image.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Take the batch norms' statistics of a model's encoder anew from unlabelled images.

    For images of another laboratory or scanner; no label, no training, seconds. It may help or harm, so score the
    result with evaluate. The champion of a project is adapted, and judged by the gate, with `mpamatch runs start
    --adapt`. OUT is a model folder whose provenance names where it came from; its figures
    are left out, since they were the old model's. A model whose encoder has no batch norm is refused. An image that
    cannot be read is named and left out; the exit code is then 1.
    """
    from mpamatch.cli.progress import progress_bar
    from mpamatch.files.folders import scan_folder
    from mpamatch.files.images import read_image
    from mpamatch.network.weights import load_model, save_model
    from mpamatch.training.statistics import adapted_config, batch_norms, pool_batches, reestimate_norms

    use_threads(threads)
    if out.is_dir() and any(out.iterdir()):
        raise Conflict(str(out), "is not empty", "give another --out")
    loaded = load_model(choose_model(model))
    if not batch_norms(loaded.module):
        problem = f"its encoder ({loaded.config.encoder.name}) has no batch norm"
        raise BadInput(f"model {loaded.config.version}", problem, "give a model whose encoder has them, as light has")
    scan = scan_folder(images)
    for problem in scan.problems:
        print(f"left out: {problem}", file=sys.stderr)
    if not scan.items:
        raise BadInput(str(images), "holds no image", "check the path")
    paths = [item.image for item in scan.items]
    unread: dict[Path, MpamatchError] = {}

    def read(path: Path) -> NDArray[np.uint8] | None:
        try:
            return read_image(path)
        except MpamatchError as error:
            unread[path] = error
            return None

    with progress_bar() as bar:
        batches = pool_batches(loaded, paths, read, seed=seed, rounds=rounds)
        count = reestimate_norms(loaded.module, bar.track(batches, total=None, description="adapting"))
    seen = len(paths) - len(unread)
    adapted = {"from": loaded.config.version, "images": seen, "batches": count, "seed": seed, "rounds": rounds}
    version = out.resolve().name
    save_model(out, loaded.module, adapted_config(loaded.config, version, adapted), texts=loaded.texts)
    result = {"version": version, "model": str(out), **adapted}
    print(json.dumps(result) if as_json else f"model {version} in {out}: statistics of {seen} images")
    for error in unread.values():
        print(f"left out: {error}", file=sys.stderr)
    if unread:
        raise typer.Exit(1)
