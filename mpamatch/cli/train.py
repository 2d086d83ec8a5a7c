"""`mpamatch train`: a run folder, or a data set or folders by hand (which become a run folder first)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpamatch.cli.lifetime import STOPPED, StopRequest, die_with_parent
from mpamatch.errors import BadInput, Cancelled, MpamatchError

if TYPE_CHECKING:
    from mpamatch.cli.sources import ImageSource
    from mpamatch.domain.recipe import Recipe

_FOLDER = {"file_okay": False, "exists": True}


def train(
    run: Annotated[Path | None, typer.Option(help="A run folder with run.json; resumes from its checkpoint.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A published data set by name.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data set lies.", **_FOLDER)] = None,
    images: Annotated[Path | None, typer.Option(help="A folder of images, instead of a data set.", **_FOLDER)] = None,
    masks: Annotated[Path | None, typer.Option(help="Masks of those images, of the same names.", **_FOLDER)] = None,
    classes: Annotated[str | None, typer.Option(help="Class names, background first: background,gland")] = None,
    foreground: Annotated[bool, typer.Option(help="Any mask value above 0 is class 1.")] = False,
    labelled: Annotated[int | None, typer.Option(min=1, help="Labelled images, the rest is pool; all.")] = None,
    method: Annotated[str | None, typer.Option(help="supervised, fixmatch or unimatch-ema.")] = None,
    profile: Annotated[str, typer.Option(help="demo, small or medium.")] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="Decides labelled images, first weights and views.")] = 0,
    start: Annotated[Path | None, typer.Option(help="A model folder to start from.", **_FOLDER)] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    knob: Annotated[list[str] | None, typer.Option("--set", help="A recipe's knob: --set tau=0.9")] = None,
    out: Annotated[Path | None, typer.Option(help="Where the run goes; the model lies in its folder model.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The result as one JSON document on stdout.")] = False,
) -> None:
    """Train on labelled images and the unlabelled rest.

    Either --run RUN_DIR (as the train worker does), or --dataset NAME --root DIR or --images DIR --masks DIR
    --classes a,b together with --out DIR. Stopped by Ctrl-C or SIGTERM it leaves a checkpoint and exits with 75;
    the same command goes on from there.
    """
    stop = StopRequest()
    if run is not None:
        die_with_parent()
        _train_folder(run, stop, as_json)
        return
    if out is None:
        raise typer.BadParameter("give --run RUN_DIR, or --out DIR with a data set or folders", param_hint="--out")
    from mpamatch.cli.sources import open_source
    from mpamatch.domain.recipe import Recipe

    names = [name.strip() for name in classes.split(",")] if classes else None
    source = open_source(dataset, root, images, masks, names, foreground=foreground, split="train")
    recipe = Recipe.for_profile(profile, method, **_knobs(knob or []))
    for problem in source.problems:
        print(f"note: {problem}", file=sys.stderr)
    _write_run(out, source, recipe, labelled, seed, start, threads)
    _train_folder(out, stop, as_json, validation=source)


def _train_folder(folder: Path, stop: StopRequest, as_json: bool, validation: ImageSource | None = None) -> None:
    from mpamatch.cli.evaluate import score
    from mpamatch.cli.progress import progress_bar
    from mpamatch.training.run_folder import ERROR_NAME, train_run

    error_file = folder / ERROR_NAME
    try:
        with progress_bar() as bar:
            task = bar.add_task("training", total=None)

            def tell(event: Mapping[str, Any]) -> None:
                stop.training = True
                if "steps" in event:
                    bar.update(task, total=event["steps"], completed=event.get("step", event["steps"]))
                for note in event.get("notes", ()) if event["event"] == "start" else ():
                    print(f"note: {note}", file=sys.stderr)

            result = train_run(folder, clock=time.monotonic, stop=stop, tell=tell)
        if validation is not None and validation.validation:
            stop.training = False  # the model is written: nothing is left to save
            result["validation"] = score(Path(result["model"]), validation.validation, validation.read_mask)
    except Cancelled as error:
        print(f"mpamatch: {error}", file=sys.stderr)
        raise typer.Exit(STOPPED) from error
    except MpamatchError as error:
        if folder.is_dir():
            row = {"item": error.item, "problem": error.problem, "remedy": error.remedy}
            error_file.write_text(json.dumps(row) + "\n", encoding="utf-8")
        raise
    error_file.unlink(missing_ok=True)
    _show(result, as_json)


def _show(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    print(f"model {result['version']} in {result['model']}: {result['steps']} steps, {result['seconds']:.0f} s")
    for name in ("holdout", "validation"):
        if result.get(name):
            print(f"{name}: mean Dice {result[name]['mdice']:.4f} on {result[name]['images']} images")
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)


def _knobs(pairs: list[str]) -> dict[str, Any]:
    knobs = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise BadInput(f"--set {pair}", "has no =", "write --set tau=0.9")
        try:
            knobs[name] = json.loads(text)
        except ValueError:
            knobs[name] = text
    return knobs


def _write_run(
    out: Path,
    source: ImageSource,
    recipe: Recipe,
    labelled: int | None,
    seed: int,
    start: Path | None,
    threads: int | None,
) -> None:
    """Make ``out`` a run folder: masks as class ids, and run.json. The same command again finds its own run."""
    from mpamatch.cli.sources import choose_labelled
    from mpamatch.errors import Conflict
    from mpamatch.files.rasters import encode_raster
    from mpamatch.training.batches import Sample
    from mpamatch.training.run_spec import RUN_NAME, RunSpec

    chosen = choose_labelled(source.masked, labelled, seed)
    (out / "masks").mkdir(parents=True, exist_ok=True)
    samples, pool = [], []
    for tile, item in enumerate(source.items):
        if item.name in chosen:
            mask = out.resolve() / "masks" / f"{tile}.png"
            mask.write_bytes(encode_raster(source.read_mask(item)))
            samples.append(Sample(tile, item.group, item.image.resolve(), mask))
        pool.append(Sample(tile, item.group, item.image.resolve()))
    spec = RunSpec(
        seed=seed,
        recipe=recipe,
        classes=source.classes,
        version=out.resolve().name,
        labelled=tuple(samples),
        pool=tuple(pool),
        start=None if start is None else start.resolve(),
        threads=threads,
        provenance={"dataset": source.name},
    )
    text = json.dumps(spec.to_json(), indent=1) + "\n"
    path = out / RUN_NAME
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise Conflict(str(out), "holds another run", "give another --out")
    path.write_text(text, encoding="utf-8")
