"""`mpamatch experiment`: compare recipes over seeds, cell by cell; stopped, it goes on from there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpamatch.cli.chosen_model import choose_model
from mpamatch.cli.lifetime import STOPPED, ParentStop, unheard
from mpamatch.cli.weights_option import WeightsDir
from mpamatch.errors import BadInput, Cancelled

if TYPE_CHECKING:
    from mpamatch.experiments.arms import Experiment
    from mpamatch.experiments.protocol import Cell, Protocol

_FOLDER = {"file_okay": False, "exists": True}
_CHILD = "mpamatch.cli.cell"


def experiment(
    name: Annotated[str | None, typer.Argument(help="Which one: see --list.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A published data set by name.")] = None,
    root: Annotated[Path | None, typer.Option(help="Where the data set lies.", **_FOLDER)] = None,
    encoder: Annotated[str | None, typer.Option(help="Another encoder than the profile's.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="How many seeds, from 0 on; 5 where nothing else.")] = None,
    profile: Annotated[str, typer.Option(help="quick, demo, small, medium or full.")] = "small",
    regime: Annotated[str, typer.Option(help="Which labels: few, sparse, shift or many.")] = "few",
    jobs: Annotated[int, typer.Option(min=1, help="Cells at once; each has its share of the cores.")] = 2,
    labelled: Annotated[int | None, typer.Option(min=1, help="Labelled images; glas 4, ebhi 16, else a tenth.")] = None,
    start: Annotated[str | None, typer.Option(help="The model that every cell begins with.")] = None,
    folds: Annotated[int, typer.Option(min=0, help="Score left-out parts of the train list instead of val.")] = 0,
    arm: Annotated[list[str] | None, typer.Option(help="An arm of recipe: --arm name:knob=value,knob=value")] = None,
    knob: Annotated[list[str] | None, typer.Option("--set", help="A knob of every arm: --set steps_cold=300")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this arm; again for more.")] = None,
    weights_dir: WeightsDir = None,
    out: Annotated[Path | None, typer.Option(help="Where cells and results go; else a folder below results/.")] = None,
    keep_models: Annotated[bool, typer.Option(help="Keep the model of every cell.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="The experiments and their arms; runs nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The results as one JSON document on stdout.")] = False,
) -> None:
    """Train every arm with every seed, score it once, and compare the arms pair by pair.

    Writes results.json, results.md and results.png. Stopped by Ctrl-C or SIGTERM every training leaves a checkpoint
    and the exit code is 75; the same command goes on from there, and tries failed cells again. A second signal does not
    wait for the checkpoints. The exit code is 1 when a cell failed.
    """
    from mpamatch.domain.typed_knobs import parse_knobs
    from mpamatch.experiments.arms import parse_arm
    from mpamatch.experiments.catalogue import find_experiment
    from mpamatch.experiments.protocol import Protocol, plan_cells
    from mpamatch.experiments.runner import threads_of

    if listed:
        _list(as_json)
        return
    stop = ParentStop()
    if name is None:
        raise typer.BadParameter("name an experiment, or give --list")
    if dataset is None or root is None:
        raise typer.BadParameter("give the data set and its folder", param_hint="--dataset --root")
    chosen = find_experiment(name, tuple(parse_arm(text) for text in arm or []), tuple(only or []))
    protocol = Protocol(
        dataset=dataset,
        root=root,
        profile=profile,
        regime=regime,
        seeds=chosen.seeds if seeds is None else seeds,
        encoder=encoder,
        labelled=labelled,
        folds=folds,
        start=_start(start, regime, dataset),
        knobs=parse_knobs(knob or [], "--set"),
        threads=threads_of(jobs),
        keep_models=keep_models,
        weights_dir=weights_dir,
    )
    cells = plan_cells(chosen, protocol)
    for one in chosen.left_out:
        print(f"note: {one} is left out, so that no arm is compared with it", file=sys.stderr)
    place = out or _place(name, protocol)
    place.mkdir(parents=True, exist_ok=True)
    try:
        _run(chosen, cells, place, protocol, jobs, stop)
    except Cancelled as error:
        with unheard():
            _report(chosen, protocol, cells, place, as_json=False)
            print(f"mpamatch: {error}", file=sys.stderr)
        raise typer.Exit(STOPPED) from error
    failed = _report(chosen, protocol, cells, place, as_json=as_json)
    if failed:
        raise typer.Exit(1)


def _start(start: str | None, regime: str, dataset: str) -> Path | None:
    """The model to begin with. The starter is one of another laboratory for sets that it never saw."""
    if start is not None:
        return choose_model(start)
    if regime != "shift":
        return None
    if dataset.startswith("ebhi"):
        raise BadInput("regime shift", "the starter was trained on ebhi", "give --start of another source")
    return choose_model("starter")


def _place(name: str, protocol: Protocol) -> Path:
    parts = [name, protocol.dataset, protocol.profile]
    if protocol.regime != "few":
        parts.append(protocol.regime)
    if protocol.folds:  # other images are scored: not the same results
        parts.append("folds")
    return Path("results") / "-".join(parts)


def _run(chosen: Experiment, cells: list[Cell], place: Path, protocol: Protocol, jobs: int, stop: ParentStop) -> None:
    from mpamatch.cli.progress import progress_bar
    from mpamatch.experiments.equal_seconds import by_seconds
    from mpamatch.experiments.runner import Progress, child_command, run_cells

    stop.training = True  # children are to be stopped before this process ends
    with progress_bar() as bar:
        task = bar.add_task(chosen.name, total=None)

        def tell(progress: Progress) -> None:
            failed = f", {progress.failed} failed" if progress.failed else ""
            words = f"{chosen.name}: {progress.done}/{progress.cells} cells{failed}"
            bar.update(task, description=words, total=round(progress.whole_work), completed=round(progress.work))

        run_cells(
            chosen.name,
            cells,
            place,
            jobs=jobs,
            command=child_command(protocol.threads, _CHILD),
            stop=stop,
            tell=tell,
            ready=by_seconds(chosen, place),
        )


def _report(chosen: Experiment, protocol: Protocol, cells: list[Cell], place: Path, *, as_json: bool) -> int:
    """Write the results as far as they go; how many cells failed, each said in one line."""
    from mpamatch.experiments.picture import draw
    from mpamatch.experiments.publish import DOCUMENT_NAME, PICTURE_NAME, TEXT_NAME
    from mpamatch.experiments.results import collect, finite
    from mpamatch.experiments.tables import as_markdown, block
    from mpamatch.files.whole_files import write_whole

    document = finite(collect(chosen, protocol, cells, place))
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_whole(place / DOCUMENT_NAME, text.encode())
    write_whole(place / TEXT_NAME, as_markdown(document).encode())
    if any(row["done"] for row in document["arms"]):
        draw(document, place / PICTURE_NAME)
    for row in document["cells"]:
        if row["reason"]:
            fold = "" if row["fold"] is None else f" fold {row['fold']}"
            print(f"{row['state']}: {row['arm']} seed {row['seed']}{fold}: {row['reason']}", file=sys.stderr)
    if as_json:
        print(text, end="")
    elif all(row["state"] != "not run" or row["reason"] for row in document["cells"]):
        print(f"{block(document)}\n\n{place / TEXT_NAME}")
    return sum(row["state"] == "failed" for row in document["cells"])


def _list(as_json: bool) -> None:
    from mpamatch.experiments.catalogue import EXPERIMENTS, FREE

    if as_json:
        rows = [
            {"experiment": one.name, "question": one.question, "arms": [arm.name for arm in one.arms]}
            for one in EXPERIMENTS.values()
        ]
        print(json.dumps(rows))
        return
    for one in EXPERIMENTS.values():
        print(f"{one.name}: {one.question}\n    {', '.join(arm.name for arm in one.arms)}")
    print(f"{FREE}: arms by hand, --arm name:knob=value,knob=value")
