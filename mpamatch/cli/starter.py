"""`mpamatch starter`: the model that comes with the package; its card, and how it was made."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mpamatch.cli.lifetime import STOPPED, StopRequest
from mpamatch.errors import Cancelled

app = typer.Typer(help="The model that comes with the package.", no_args_is_help=True)
_FOLDER = {"file_okay": False, "exists": True}


@app.command("show")
def show(
    as_json: Annotated[bool, typer.Option("--json", help="Its configuration and figures as one document.")] = False,
) -> None:
    """The model card: data, licence, figures, limits."""
    from mpamatch.files.model_archive import CONFIG_NAME
    from mpamatch.files.starter import CARD_NAME, starter_folder

    name = CONFIG_NAME if as_json else CARD_NAME
    print((starter_folder() / name).read_text(encoding="utf-8").rstrip())


@app.command("build")
def build(
    ebhi: Annotated[Path, typer.Option(help="The folder of EBHI-Seg with its splits.", **_FOLDER)],
    out: Annotated[Path, typer.Option(help="Where the run goes; the model lies in its folder model.")],
    plan: Annotated[
        Path | None, typer.Option(help="Another plan than the shipped one.", exists=True, dir_okay=False)
    ] = None,
    leave_out: Annotated[
        int | None, typer.Option(min=0, max=4, help="For tuning: keep this fifth of the training cases out, score it.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch; another number gives other last digits.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="The figures as one JSON document.")] = False,
) -> None:
    """Make the starter again: EBHI-Seg's training list and drawn tissue, never a validation list.

    Ends with its figures on the validation list (with --leave-out: on the cases left out). Stopped by Ctrl-C it
    leaves a checkpoint; the same command goes on from there.
    """
    from mpamatch.cli.evaluate import score
    from mpamatch.cli.lifetime import use_threads
    from mpamatch.cli.progress import progress_bar
    from mpamatch.datasets import open_dataset
    from mpamatch.training import starter_run

    use_threads(threads)
    stop = StopRequest()
    chosen = starter_run.read_plan(plan)
    out.mkdir(parents=True, exist_ok=True)
    starter_run.prepare(out, ebhi, chosen, threads=threads, leave_out=leave_out)
    try:
        with progress_bar() as bar:
            task = bar.add_task("training the starter", total=None)

            def tell(event: Mapping[str, Any]) -> None:
                stop.training = True
                if "steps" in event:
                    bar.update(task, total=event["steps"], completed=event.get("step", event["steps"]))

            model = starter_run.train_starter(out, clock=time.monotonic, stop=stop, tell=tell)
    except Cancelled as error:
        raise typer.Exit(STOPPED) from error
    stop.training = False
    data = open_dataset("ebhi", ebhi)
    items = data.items("val") if leave_out is None else starter_run.left_out(data, leave_out)
    figures = starter_run.summary(score(model, items, data.read_mask))
    result = {"model": str(model), "scored": "val" if leave_out is None else f"fifth {leave_out}", **figures}
    print(json.dumps(result) if as_json else f"{model}: mean Dice {figures['mdice']:.4f} on {figures['images']} images")
