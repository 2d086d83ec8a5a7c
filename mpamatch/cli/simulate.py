"""`mpamatch simulate`: the queue's strategies side by side, with an oracle in the annotator's chair."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mpamatch.cli.lifetime import STOPPED, ParentStop, unheard
from mpamatch.cli.recipe import METHOD_HELP
from mpamatch.cli.weights_option import WeightsDir
from mpamatch.errors import Cancelled

if TYPE_CHECKING:
    from mpamatch.experiments.protocol import Division
    from mpamatch.experiments.simulation.plan import SimulatedCell, Simulation

_FOLDER = {"file_okay": False, "exists": True}
_CHILD = "mpamatch.cli.simulated_cell"
_DEFAULTS = "random,foreground-random,entropy,mpamatch,whole-tile-random"


def simulate(
    dataset: Annotated[str, typer.Option(help="A published data set by name.")],
    root: Annotated[Path, typer.Option(help="Where the data set lies.", **_FOLDER)],
    profile: Annotated[str, typer.Option(help="quick, demo, small, medium or full.")] = "small",
    strategies: Annotated[str, typer.Option(help="Names with commas between them; see the docs.")] = _DEFAULTS,
    rounds: Annotated[int, typer.Option(min=1, help="How often labels are bought and a model trained.")] = 4,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0 on.")] = 3,
    jobs: Annotated[int, typer.Option(min=1, help="Cells at once; each has its share of the cores.")] = 2,
    method: Annotated[str, typer.Option(help=METHOD_HELP)] = "supervised",
    budget: Annotated[float | None, typer.Option(min=1, help="Clicks a round; 4 % of what all images take.")] = None,
    labelled: Annotated[
        int | None, typer.Option(min=1, help="Whole images known at the start; glas 2, ebhi 8, else a twentieth.")
    ] = None,
    box: Annotated[int, typer.Option(min=4, help="Side of every box, px at the working scale.")] = 32,
    cold_rounds: Annotated[bool, typer.Option(help="Train each round anew, as long as the start.")] = False,
    encoder: Annotated[str | None, typer.Option(help="Another encoder than the profile's.")] = None,
    knob: Annotated[list[str] | None, typer.Option("--set", help="A knob of every run: --set steps_warm=100")] = None,
    weights_dir: WeightsDir = None,
    out: Annotated[Path | None, typer.Option(help="Where cells and results go; else a folder below results/.")] = None,
    keep_models: Annotated[bool, typer.Option(help="Keep the last model of every cell.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The results as one JSON document on stdout.")] = False,
) -> None:
    """Buy labels from hidden masks by several strategies, for equal clicks and steps, and compare the learning curves.

    Writes results.json, results.md and results.png. Stopped by Ctrl-C or SIGTERM every cell keeps its rounds and a
    checkpoint, and the exit code is 75; the same command goes on from there, and tries failed cells again. A second
    signal does not wait for the checkpoints. The exit code is 1 when a cell failed.
    """
    from mpamatch.domain.typed_knobs import parse_knobs
    from mpamatch.experiments.runner import threads_of
    from mpamatch.experiments.simulation.plan import Simulation, division_of, plan_cells

    stop = ParentStop()
    simulation = Simulation(
        dataset=dataset,
        root=root,
        profile=profile,
        strategies=tuple(name.strip() for name in strategies.split(",") if name.strip()),
        rounds=rounds,
        seeds=seeds,
        method=method,
        encoder=encoder,
        labelled=labelled,
        budget_clicks=budget,
        box_px=box,
        cold_rounds=cold_rounds,
        knobs=parse_knobs(knob or [], "--set"),
        threads=threads_of(jobs),
        keep_models=keep_models,
        weights_dir=weights_dir,
    )
    division = division_of(dataset, root)
    cells = plan_cells(simulation, division)
    place = out or Path("results") / f"simulate-{dataset}-{profile}"
    place.mkdir(parents=True, exist_ok=True)
    _say_plan(cells, division, jobs)
    try:
        _run(cells, place, simulation, jobs, stop)
    except Cancelled as error:
        with unheard():
            _report(simulation, cells, division, place, as_json=False)
            print(f"mpamatch: {error}", file=sys.stderr)
        raise typer.Exit(STOPPED) from error
    if _report(simulation, cells, division, place, as_json=as_json):
        raise typer.Exit(1)


def _say_plan(cells: list[SimulatedCell], division: Division, jobs: int) -> None:
    from mpamatch.experiments.simulation.estimate import Extent, core_seconds
    from mpamatch.files.images import image_size

    def mpx(items: object) -> float:
        sizes = [image_size(item.image) for item in items]  # type: ignore[attr-defined]
        return sum(w * h / cells[0].recipe.reduction_for(max(w, h)) ** 2 for w, h in sizes) / 1e6

    minutes = core_seconds(cells, Extent(mpx(division.train), mpx(division.scored))) / 60
    one = cells[0]
    print(
        f"{len(cells)} cells; rounds: {one.rounds}, of {one.budget_clicks:,.0f} clicks; boxes of {one.box_side_px} px; "
        f"{one.recipe.method}; about {minutes:.0f} minutes of one core, {minutes / jobs:.0f} with {jobs} at once "
        "(rough, and less by what is done already)",
        file=sys.stderr,
    )


def _run(cells: list[SimulatedCell], place: Path, simulation: Simulation, jobs: int, stop: ParentStop) -> None:
    from mpamatch.cli.progress import progress_bar
    from mpamatch.experiments.runner import Progress, child_command, run_cells
    from mpamatch.experiments.simulation.plan import after_start, forget_lost_starts

    stop.training = True  # children are to be stopped before this process ends
    forget_lost_starts(cells, place)
    with progress_bar() as bar:
        task = bar.add_task("simulate", total=None)

        def tell(progress: Progress) -> None:
            failed = f", {progress.failed} failed" if progress.failed else ""
            words = f"simulate: {progress.done}/{progress.cells} cells{failed}"
            bar.update(task, description=words, total=round(progress.whole_work), completed=round(progress.work))

        run_cells(
            "simulate",
            cells,
            place,
            jobs=jobs,
            command=child_command(simulation.threads, _CHILD),
            stop=stop,
            tell=tell,
            ready=after_start,
        )


def _report(
    simulation: Simulation, cells: list[SimulatedCell], division: Division, place: Path, *, as_json: bool
) -> int:
    """Write the results as far as they go; how many cells failed, each said in one line."""
    from mpamatch.experiments.publish import DOCUMENT_NAME, PICTURE_NAME, TEXT_NAME
    from mpamatch.experiments.simulation.picture import draw
    from mpamatch.experiments.simulation.results import collect
    from mpamatch.experiments.simulation.tables import as_markdown, block
    from mpamatch.files.whole_files import write_whole

    document = collect(simulation, cells, division, place)
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    write_whole(place / DOCUMENT_NAME, text.encode())
    write_whole(place / TEXT_NAME, as_markdown(document).encode())
    if any(one["seeds"] for one in document["strategies"].values()):
        draw(document, place / PICTURE_NAME)
    for row in document["cells"]:
        if row["reason"]:
            print(f"{row['state']}: {row['strategy']} seed {row['seed']}: {row['reason']}", file=sys.stderr)
    if as_json:
        print(text, end="")
    elif all(row["state"] != "not run" for row in document["cells"]):
        print(f"{block(document)}\n\n{place / TEXT_NAME}")
    return sum(row["state"] == "failed" for row in document["cells"])
