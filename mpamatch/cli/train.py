"""`mpamatch train`: a run folder, or a data set or folders by hand (which become a run folder first)."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mpamatch.cli.chosen_data import HELP as DATASET_HELP
from mpamatch.cli.chosen_model import HELP as MODEL_HELP
from mpamatch.cli.chosen_model import choose_model
from mpamatch.cli.lifetime import (
    LOST,
    NOT_WRITTEN,
    STOPPED,
    StopRequest,
    die_with_parent,
    leave_after_parent,
)
from mpamatch.cli.recipe import METHOD_HELP
from mpamatch.cli.weights_option import AllowHub, WeightsDir
from mpamatch.errors import BadInput, Cancelled, MpamatchError, NotWritten, Unavailable

if TYPE_CHECKING:
    from mpamatch.cli.sources import ImageSource
    from mpamatch.domain.recipe import Recipe

_FOLDER = {"file_okay": False, "exists": True}


def train(
    run: Annotated[Path | None, typer.Option(help="A run folder with run.json; resumes from its checkpoint.")] = None,
    dataset: Annotated[str | None, typer.Option(help=DATASET_HELP)] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data set lies.", **_FOLDER)] = None,
    images: Annotated[Path | None, typer.Option(help="A folder of images, instead of a data set.", **_FOLDER)] = None,
    masks: Annotated[Path | None, typer.Option(help="Masks of those images, of the same names.", **_FOLDER)] = None,
    classes: Annotated[str | None, typer.Option(help="Class names, background first: background,gland")] = None,
    foreground: Annotated[bool, typer.Option(help="Any mask value above 0 is class 1.")] = False,
    labelled: Annotated[int | None, typer.Option(min=1, help="Labelled images, the rest is pool; all.")] = None,
    lists: Annotated[
        Path | None,
        typer.Option(
            help="Labelled, pool and validation images by name (mpamatch lists).", exists=True, dir_okay=False
        ),
    ] = None,
    method: Annotated[str | None, typer.Option(help=METHOD_HELP)] = None,
    preset: Annotated[str | None, typer.Option(help="light, tiny, paper, bn or strong.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Texts of your own for every class (docs/text.md).", exists=True, dir_okay=False)
    ] = None,
    profile: Annotated[str, typer.Option(help="demo, small or medium.")] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="Decides labelled images, first weights and views.")] = 0,
    start: Annotated[str | None, typer.Option(help="Where to start: " + MODEL_HELP)] = None,
    fresh_head: Annotated[bool, typer.Option(help="Draw the head of --start anew; the whole schedule.")] = False,
    full_schedule: Annotated[bool, typer.Option(help="The whole schedule also with the head of --start.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of torch.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    weights_dir: WeightsDir = None,
    allow_hub: AllowHub = False,
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
        leave_after_parent()
        _train_folder(run, stop, as_json)
        return
    if out is None:
        raise typer.BadParameter("give --run RUN_DIR, or --out DIR with a data set or folders", param_hint="--out")
    if lists is not None and labelled is not None:
        raise typer.BadParameter("the lists say which images are labelled", param_hint="--labelled")
    from mpamatch.cli.sources import listed_source, open_source
    from mpamatch.datasets.protocols import draw_labelled
    from mpamatch.domain.recipe import Recipe
    from mpamatch.domain.typed_knobs import parse_knobs

    names = [name.strip() for name in classes.split(",")] if classes else None
    split = "train" if lists is None else "all"
    source = open_source(dataset, root, images, masks, names, foreground=foreground, split=split)
    if lists is not None:
        source, chosen = listed_source(source, lists)
    else:
        chosen = frozenset(draw_labelled(source.masked, labelled, seed))
    recipe = Recipe.for_profile(profile, method, preset=preset, **parse_knobs(knob or [], "--set"))
    if prompts is not None:
        source = _with_texts(source, recipe, prompts)
    for problem in source.problems:
        print(f"note: {problem}", file=sys.stderr)
    begin = None if start is None else choose_model(start)
    computes: dict[str, Any] = {"threads": threads, "device": device, "precision": precision, "allow_hub": allow_hub}
    computes["weights_dir"] = None if weights_dir is None else weights_dir.resolve()
    _write_run(out, source, recipe, chosen, seed, begin, computes, fresh_head=fresh_head, full_schedule=full_schedule)
    _train_folder(out, stop, as_json, validation=source, weights_dir=weights_dir, allow_hub=allow_hub)


def _train_folder(
    folder: Path,
    stop: StopRequest,
    as_json: bool,
    *,
    validation: ImageSource | None = None,
    weights_dir: Path | None = None,
    allow_hub: bool = False,
) -> None:
    from mpamatch.cli.evaluate import score
    from mpamatch.cli.progress import progress_bar
    from mpamatch.network.devices import device_lost
    from mpamatch.training.run_files import ERROR_NAME
    from mpamatch.training.run_folder import train_run

    error_file = folder / ERROR_NAME
    try:
        with progress_bar() as bar:
            task = bar.add_task("training", total=None)

            def tell(event: Mapping[str, Any]) -> None:
                stop.training = True
                if "steps" in event:
                    bar.update(task, total=event["steps"], completed=event.get("step", event["steps"]))
                for note in event.get("notes", ()) if event["event"] != "step" else ():
                    print(f"note: {note}", file=sys.stderr)

            result = train_run(folder, clock=time.monotonic, stop=stop, tell=tell)
        if not result:
            return  # one of several processes: the first says what came of it
        if validation is not None and validation.validation:
            stop.training = False  # the model is written: nothing is left to save
            items, read_mask = validation.validation, validation.read_mask
            model = Path(result["model"])
            result["validation"] = score(model, items, read_mask, weights_dir=weights_dir, allow_hub=allow_hub)
    except Cancelled as error:
        print(f"mpamatch: {error}", file=sys.stderr)
        raise typer.Exit(STOPPED) from error
    except NotWritten as error:  # nothing more can be written now, the reason included: it is said by the exit code
        print(f"mpamatch: {error}", file=sys.stderr)
        raise typer.Exit(NOT_WRITTEN) from error
    except MpamatchError as error:
        if folder.is_dir():
            _write_error(error_file, error, again=False)
        raise
    except RuntimeError as error:
        if not device_lost(error):
            raise
        said = str(error).strip().splitlines()[0]
        lost = Unavailable("device", f"was lost: {said}", "see `nvidia-smi` and the kernel's log, or train on the CPU")
        _write_error(error_file, lost, again=True)
        print(f"mpamatch: {lost}", file=sys.stderr)
        raise typer.Exit(LOST) from error
    error_file.unlink(missing_ok=True)
    _show(result, as_json)


def _write_error(path: Path, error: MpamatchError, *, again: bool) -> None:
    """For whoever started this process; ``again``: a new process may go on where this one failed."""
    row = {"item": error.item, "problem": error.problem, "remedy": error.remedy, "again": again}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")


def _show(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result))
        return
    adapted = result.get("adapted")
    done = f"{result['steps']} steps" if adapted is None else f"norms adapted to {adapted['images']} images"
    print(f"model {result['version']} in {result['model']}: {done}, {result['seconds']:.0f} s")
    for name in ("holdout", "validation"):
        if result.get(name):
            print(f"{name}: mean Dice {result[name]['mdice']:.4f} on {result[name]['images']} images")
    for note in result["notes"]:
        print(f"note: {note}", file=sys.stderr)


def _with_texts(source: ImageSource, recipe: Recipe, path: Path) -> ImageSource:
    """The source with a person's own texts for its classes. Raises BadInput, also where nothing would read them."""
    from mpamatch.files.prompts import own_texts

    if not recipe.uses_text_prototypes:
        problem = f"given, and a run of {recipe.method} with text {recipe.text} reads no texts"
        raise BadInput("--prompts", problem, "leave it out, or add --method mpamatch")
    texts = own_texts(source.classes.names, recipe.prompts, path)
    return replace(source, classes=source.classes.with_prompts(texts))


def _write_run(
    out: Path,
    source: ImageSource,
    recipe: Recipe,
    chosen: frozenset[str],
    seed: int,
    start: Path | None,
    computes: Mapping[str, Any],
    *,
    fresh_head: bool,
    full_schedule: bool,
) -> None:
    """Make ``out`` a run folder in which the ``chosen`` names are labelled: masks as class ids, and run.json.

    The same command again finds its own run.
    """
    from mpamatch.cli.sources import check_source_apart
    from mpamatch.errors import Conflict
    from mpamatch.files.rasters import encode_raster
    from mpamatch.training.batches import Sample
    from mpamatch.training.run_spec import RUN_NAME, RunSpec

    check_source_apart(source)
    (out / "masks").mkdir(parents=True, exist_ok=True)
    samples, pool, problems = [], [], list[MpamatchError]()
    for tile, item in enumerate(source.items):
        if item.name in chosen:
            mask = out.resolve() / "masks" / f"{tile}.png"
            try:
                mask.write_bytes(encode_raster(source.read_mask(item)))
            except MpamatchError as error:  # one bad mask; the rest trains
                problems.append(error)
                continue
            samples.append(Sample(tile, item.group, item.image.resolve(), mask))
        pool.append(Sample(tile, item.group, item.image.resolve()))
    if problems and not samples:
        raise problems[0]
    for problem in problems:
        print(f"note: left out: {problem}", file=sys.stderr)
    spec = RunSpec(
        seed=seed,
        recipe=recipe,
        classes=source.classes,
        version=out.resolve().name,
        labelled=tuple(samples),
        pool=tuple(pool),
        start=None if start is None else start.resolve(),
        fresh_head=fresh_head,
        full_schedule=full_schedule,
        **computes,
        provenance={"dataset": source.name},
    )
    text = json.dumps(spec.to_json(), indent=1) + "\n"
    path = out / RUN_NAME
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        raise Conflict(str(out), "holds another run", "give another --out")
    path.write_text(text, encoding="utf-8")
