"""One cell in a process of its own, round by round: choose, label, train, score. Needs torch.

Each stage of a round leaves its outcome in the round's folder and finds what an earlier process finished, so that a
cell that was stopped goes on from where it was and ends with the same figures.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mpamatch.datasets import DatasetItem
from mpamatch.domain.classes import ClassSet
from mpamatch.errors import BadInput
from mpamatch.experiments.cell import note_memory
from mpamatch.experiments.plans import CELL_RESULT, read_plan
from mpamatch.experiments.protocol import Division
from mpamatch.experiments.scoring import Masked, score_at_working_scale
from mpamatch.experiments.simulation.asking import ask
from mpamatch.experiments.simulation.hidden_pool import HiddenPool
from mpamatch.experiments.simulation.oracle import Bought, answered, clicks_for
from mpamatch.experiments.simulation.plan import (
    ALL_LABELS,
    ROUND_FOLDER,
    START,
    START_MODEL,
    SimulatedCell,
    division_of,
    place_of,
    start_tiles,
)
from mpamatch.files.rasters import encode_raster
from mpamatch.files.whole_files import write_whole
from mpamatch.inference import Predictor
from mpamatch.network.weights import dump_json, load_model
from mpamatch.training.batches import Sample
from mpamatch.training.run_files import CHECKPOINT_NAME, MODEL_NAME, PROGRESS_NAME
from mpamatch.training.run_folder import train_run
from mpamatch.training.run_spec import RUN_NAME, RunSpec, read_run

_MASKS, _BOUGHT, _SCORES = "masks", "bought.json", "scores.json"
_SEEDS_APART = 10_000
"""So that the rounds of a seed do not all see the same views, and no round those of another seed."""

Clock = Callable[[], float]
Stop = Callable[[], bool]
Tell = Callable[[Mapping[str, Any]], None]


def run_simulated_cell(folder: Path, *, clock: Clock, stop: Stop, tell: Tell = lambda event: None) -> dict[str, Any]:
    """Bring the cell of a folder to its end and return what `cell.json` holds.

    Raises Cancelled when ``stop`` says so (training keeps its checkpoint), and the errors of what it reads.
    """
    cell = read_plan(folder, SimulatedCell)
    try:
        done = _Walk(folder, cell, clock, stop, tell).to_the_end()
    finally:
        memory_mib = note_memory(folder)
    done |= {"peak_memory_mib": memory_mib}
    write_whole(folder / CELL_RESULT, dump_json(done).encode())
    if cell.strategy != START and not cell.keep_models:
        for path in folder.glob(ROUND_FOLDER.format("*") + "/" + MODEL_NAME):
            shutil.rmtree(path)
    return done


class _Walk:
    """The rounds of one cell in order; see the module."""

    def __init__(self, folder: Path, cell: SimulatedCell, clock: Clock, stop: Stop, tell: Tell) -> None:
        self._folder, self._cell, self._clock, self._stop, self._tell = folder, cell, clock, stop, tell
        self._division: Division = division_of(cell.dataset, cell.root)
        self._pool = HiddenPool(self._division)
        self._classes = ClassSet.from_names(self._division.data.class_names)
        self._start = start_tiles(cell, self._division)
        self._bought: list[Bought] = []
        self._steps_before = 0

    def to_the_end(self) -> dict[str, Any]:
        cell, rounds = self._cell, []
        for number in cell.round_numbers:
            here = self._folder / ROUND_FOLDER.format(number)
            here.mkdir(exist_ok=True)
            if cell.strategy not in (START, ALL_LABELS):
                self._bought += self._buy(number, here)
            scores = self._scored(number, here)
            rounds.append({**self._figures(number), **scores})
            self._steps_before += cell.steps_of(number)
            self._tidy(number, here)
        return {
            "strategy": cell.strategy,
            "seed": cell.seed,
            "method": cell.recipe.method,
            "recipe_sha256": cell.recipe.sha256(),
            "start": [self._division.train[tile].name for tile in self._start],
            "start_clicks": sum(clicks_for(self._pool.truth(tile), None) for tile in self._start),
            "start_area_share": sum(self._pool.whole(tile).area_px for tile in self._start) / self._pool.area_px,
            "rounds": rounds,
            "bought": [
                {**one.to_json(), "image": self._division.train[one.tile].name, "seconds": one.seconds}
                for one in self._bought
            ],
        }

    def _buy(self, number: int, here: Path) -> list[Bought]:
        """The answers of a round: those of the file where they are there, else new ones."""
        path = here / _BOUGHT
        if path.is_file():
            return [Bought.from_json(row) for row in json.loads(path.read_text(encoding="utf-8"))]
        loaded = load_model(self._model_of(number - 1), weights_dir=self._cell.weights_dir)
        bought = ask(self._cell, self._pool, self._start, self._bought, number, Predictor(loaded), stop=self._stop)
        write_whole(path, dump_json([one.to_json() for one in bought]).encode())
        return bought

    def _scored(self, number: int, here: Path) -> dict[str, Any]:
        """The scores of a round: those of the file where they are there, else after training and scoring."""
        path = here / _SCORES
        if path.is_file():
            return dict(json.loads(path.read_text(encoding="utf-8")))
        if not (here / RUN_NAME).is_file() or read_run(here).weights_dir != self._cell.weights_dir:
            self._prepare(number, here)
        result = train_run(here, clock=self._clock, stop=self._stop, tell=self._teller())
        before = self._clock()
        loaded = load_model(here / MODEL_NAME, weights_dir=self._cell.weights_dir)
        tau, held_out = self._cell.recipe.tau, self._division.scored
        hidden = [item for tile, item in enumerate(self._division.train) if tile not in self._start]

        def masked(items: Sequence[DatasetItem]) -> Iterator[Masked]:
            for item in items:
                yield item, self._division.data.read_mask(item)

        scores = {
            "val": score_at_working_scale(loaded, masked(held_out), tau=tau, stop=self._stop),
            "pool": score_at_working_scale(loaded, masked(hidden), tau=tau, stop=self._stop),
            "steps": result["steps"],
            "labelled_images": result["labelled_tiles"],
            "training_s": result["seconds"],
            "scoring_s": self._clock() - before,
            "reduction": result["reduction"],
            "notes": result["notes"],
        }
        write_whole(path, dump_json(scores).encode())
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _prepare(self, number: int, here: Path) -> None:
        """The masks that are known, and run.json last."""
        cell, division = self._cell, self._division
        (here / _MASKS).mkdir(exist_ok=True)
        everything = range(len(self._pool)) if cell.strategy == ALL_LABELS else self._start
        boxes = {tile: [self._pool.whole(tile)] for tile in everything}
        for one in self._bought:
            boxes.setdefault(one.tile, []).append(one.box)
        pool = [Sample(tile, item.group, item.image.resolve()) for tile, item in enumerate(division.train)]
        labelled = []
        for tile in sorted(boxes):
            path = (here / _MASKS / f"{tile}.png").resolve()
            path.write_bytes(encode_raster(answered(self._pool.truth(tile), boxes[tile])))
            labelled.append(replace(pool[tile], mask=path))
        warm = number > 0 and not cell.cold_rounds
        spec = RunSpec(
            seed=cell.seed + _SEEDS_APART * number,
            recipe=cell.recipe,
            classes=self._classes,
            version=f"{cell.strategy}-{cell.seed}-{number}",
            labelled=tuple(labelled),
            pool=tuple(pool),
            start=self._model_of(number - 1).resolve() if warm else None,
            threads=cell.threads,
            weights_dir=cell.weights_dir,
            provenance={"dataset": division.data.name},
        )
        write_whole(here / RUN_NAME, (json.dumps(spec.to_json(), indent=1) + "\n").encode())

    def _model_of(self, number: int) -> Path:
        """The model at the end of a round; that of round 0 is the seed's start. Raises BadInput without it."""
        if number == 0 and self._cell.strategy != ALL_LABELS:
            path = self._folder.parents[2] / place_of(START, self._cell.seed) / START_MODEL
        else:
            path = self._folder / ROUND_FOLDER.format(number) / MODEL_NAME
        if not path.is_dir():
            raise BadInput(str(path), "no such model", "remove this cell's folder and run the simulation again")
        return path

    def _tidy(self, number: int, here: Path) -> None:
        """Remove what no later round needs, the model of the round before included; that of a start stays with it."""
        before = self._folder / ROUND_FOLDER.format(number - 1) / MODEL_NAME
        for path in (here / CHECKPOINT_NAME, here / _MASKS, *([] if self._cell.keep_models else [before])):
            shutil.rmtree(path, ignore_errors=True)

    def _figures(self, number: int) -> dict[str, Any]:
        """What was bought until the end of a round."""
        return {
            "round": number,
            "boxes": len(self._bought),
            "images": len({one.tile for one in self._bought}),
            "clicks": sum(one.clicks for one in self._bought),
            "seconds": sum(one.seconds for one in self._bought),
            "area_share": sum(one.box.area_px for one in self._bought) / self._pool.area_px,
        }

    def _teller(self) -> Tell:
        """Tells how far the whole cell is, to its own progress file too, while a round trains."""
        steps, before, path = self._cell.steps, self._steps_before, self._folder / PROGRESS_NAME

        def tell(event: Mapping[str, Any]) -> None:
            if event["event"] == "step":
                with path.open("a", encoding="utf-8") as lines:
                    lines.write(json.dumps({"step": before + int(event["step"]), "steps": steps}) + "\n")
            self._tell(event)

        return tell
