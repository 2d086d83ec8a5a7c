"""A run folder: ``run.json`` in; progress, checkpoint, model and result out. Resumes where it was stopped.

The one place that ties reading, the loop, checkpoints and evaluation together; the train worker and the command line
start the same function. It reads a clock only through the ``clock`` it is given.
"""

from __future__ import annotations

import fcntl
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray

from mpamatch.domain.classes import IGNORE
from mpamatch.errors import BadInput, Cancelled, Conflict, NotFound
from mpamatch.files.images import image_size, read_image
from mpamatch.inference import Predictor
from mpamatch.network.encoders import encoder_record
from mpamatch.network.model import Segmenter, build_segmenter, parameter_count
from mpamatch.network.weights import LoadedModel, ModelConfig, WorkingScale, dump_json, load_model, save_model
from mpamatch.training.batches import Sample, Streams, TileReader, read_class_ids
from mpamatch.training.checkpoints import load_checkpoint, save_checkpoint
from mpamatch.training.evaluation import evaluate, fit_temperature
from mpamatch.training.holdout import Holdout, choose_holdout
from mpamatch.training.loop import LoopState, StepReport, TrainingLoop
from mpamatch.training.run_spec import RunSpec, read_run

RESULT_NAME, PROGRESS_NAME, ERROR_NAME = "result.json", "progress.jsonl", "error.json"
MODEL_NAME, CHECKPOINT_NAME = "model", "checkpoint"
_RESUME = "start it again to resume"
_LOCK_TRIES, _LOCK_PAUSE_S = 20, 0.25

Event = Mapping[str, Any]


@dataclass
class _Sums:
    """Running figures that a resumed run carries on: seconds, and means over the last quarter of the steps."""

    seconds: float = 0.0
    steps: int = 0
    skipped: int = 0
    x: float = 0.0
    u: float = 0.0
    total: float = 0.0
    mask_ratio: float = 0.0

    def add(self, report: StepReport) -> None:
        self.skipped += report.skipped
        if report.skipped or report.step <= 0.75 * report.steps:
            return
        self.steps += 1
        self.x += report.x
        self.u += report.u
        self.total += report.total
        self.mask_ratio += report.mask_ratio or 0.0

    def mean(self, value: float) -> float:
        return value / self.steps if self.steps else math.nan


def train_run(
    folder: Path,
    *,
    clock: Callable[[], float],
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[Event], None] = lambda event: None,
) -> dict[str, Any]:
    """Train the run of a folder, from its checkpoint where there is one, and return (and write) its result.

    ``stop`` is asked after each step: when it says yes the run is checkpointed and Cancelled is raised. ``tell``
    gets each event that goes to ``progress.jsonl``. A finished run is not trained again. Raises BadInput, NotFound,
    and Conflict when another process trains the same folder.
    """
    with _alone(folder):
        finished = folder / RESULT_NAME
        if finished.is_file():
            return dict(json.loads(finished.read_text(encoding="utf-8")))
        with (folder / PROGRESS_NAME).open("a", encoding="utf-8") as lines:
            run = _Run(folder, read_run(folder), clock, stop, _Teller(lines, tell))
            result = run.train()
        _write_whole(finished, dump_json(result))
        return result


class _Teller:
    """Says an event to the progress file and to whoever listens."""

    def __init__(self, lines: TextIO, tell: Callable[[Event], None]) -> None:
        self._lines, self._tell = lines, tell

    def __call__(self, event: str, **values: Any) -> None:
        row = json.loads(dump_json({"event": event, **values}))
        self._lines.write(json.dumps(row) + "\n")
        self._lines.flush()
        self._tell(row)


class _Run:
    """One pass over a run folder; see :func:`train_run`."""

    def __init__(
        self, folder: Path, spec: RunSpec, clock: Callable[[], float], stop: Callable[[], bool], say: _Teller
    ) -> None:
        self._folder, self._spec, self._clock, self._stop, self._say = folder, spec, clock, stop, say
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._sums = _Sums()
        self._notes: list[str] = []

    def train(self) -> dict[str, Any]:
        spec = self._spec
        if spec.threads is not None:
            torch.set_num_threads(max(1, spec.threads))
        labelled, classes_of = self._usable_labelled()
        holdout = choose_holdout(labelled, classes_of, spec.recipe.holdout_share)
        pool = [s for s in spec.pool if s.tile not in holdout.kept]
        scale = WorkingScale(spec.recipe.reduction_for(_long_side_px(labelled)))
        reader = TileReader(scale.reduction, spec.classes.count)
        model, warm, start_version = self._first_model()
        streams = Streams(
            [s for s in labelled if s.tile not in holdout.kept],
            pool,
            recipe=spec.recipe,
            reader=reader,
            mean=model.record.mean,
            std=model.record.std,
            seed=spec.seed,
        )
        loop = TrainingLoop(model, streams, spec.recipe, pool_tiles=len(pool), warm=warm, seed=spec.seed)
        self._resume(loop)
        if spec.recipe.uses_pool and not pool:
            self._notes.append("the pool is empty: trained supervised")
        self._say(
            "start",
            version=spec.version,
            method=spec.recipe.method,
            step=loop.step,
            steps=loop.steps,
            labelled_tiles=len(labelled),
            pool_tiles=len(pool),
            held_back=_held_back_json(holdout),
            reduction=scale.reduction,
            warm=warm,
            threads=torch.get_num_threads(),
            notes=self._notes,
        )
        with _deterministic(self._device):
            self._steps(loop, streams)
        kept = [s for s in labelled if s.tile in holdout.kept]
        return self._finish(loop, streams, scale, reader, kept, holdout, len(labelled), start_version)

    def _usable_labelled(self) -> tuple[list[Sample], dict[int, frozenset[int]]]:
        """Labelled tiles that hold at least one label, with their classes; bad ones are left out and said."""
        usable, classes_of, bad = [], {}, None
        for sample in self._spec.labelled:
            assert sample.mask is not None
            try:
                ids = np.unique(read_class_ids(sample.mask, self._spec.classes.count))
                image_size(sample.image)
            except BadInput as error:
                bad = error
                self._notes.append(f"tile {sample.tile} left out: {error}")
                continue
            present = frozenset(int(i) for i in ids if i != IGNORE)
            if present:
                usable.append(sample)
                classes_of[sample.tile] = present
        if not usable:
            raise bad or BadInput("run", "no labelled pixel in any tile", "label at least one tile")
        return usable, classes_of

    def _first_model(self) -> tuple[Segmenter, bool, str | None]:
        """The model to begin with, whether it is a warm start, and the version it comes from."""
        spec = self._spec
        record = encoder_record(spec.recipe.segmenter)
        if spec.start is not None:
            started = load_model(spec.start)
            if started.config.encoder == record:
                return self._warm_model(started)
            self._notes.append(f"start not used: its encoder is {started.config.encoder.name}, not {record.name}")
        return build_segmenter(record, spec.classes.count, seed=spec.seed).to(self._device), False, None

    def _warm_model(self, started: LoadedModel) -> tuple[Segmenter, bool, str | None]:
        """The start's weights; with another class list its head is drawn anew and the run counts as cold."""
        version = started.config.version
        if started.config.classes.names == self._spec.classes.names:
            return started.module.to(self._device), True, version
        fresh = build_segmenter(started.config.encoder, self._spec.classes.count, seed=self._spec.seed)
        fresh.encoder.load_state_dict(started.module.encoder.state_dict())
        fresh.decoder.load_state_dict(started.module.decoder.state_dict())
        self._notes.append("the class list changed: cold schedule, new head")
        return fresh.to(self._device), False, version

    def _resume(self, loop: TrainingLoop) -> None:
        state = load_checkpoint(self._folder / CHECKPOINT_NAME)
        if state is not None:
            loop.restore(state)
            self._sums = _Sums(**state.values["sums"])

    def _checkpoint(self, loop: TrainingLoop) -> None:
        state = loop.state()
        values = {**state.values, "sums": vars(self._sums)}
        save_checkpoint(self._folder / CHECKPOINT_NAME, LoopState(state.tensors, values))

    def _steps(self, loop: TrainingLoop, streams: Streams) -> None:
        pace = _Pace(loop)
        before = self._clock()
        for report in loop.run():
            now = self._clock()
            self._sums.seconds += now - before
            pace.add(report, now - before)
            before = now
            self._sums.add(report)
            if report.step % self._spec.recipe.report_every == 0 or report.step == report.steps:
                self._say("step", **_step_json(report, pace, streams.pool_tiles(loop.first_pool_step, report.step)))
            if self._stop():
                self._checkpoint(loop)
                raise Cancelled("run", f"stopped after step {report.step} of {report.steps}", _RESUME)
            if report.step % self._spec.recipe.checkpoint_every == 0 or report.step == report.steps:
                self._checkpoint(loop)

    def _finish(
        self,
        loop: TrainingLoop,
        streams: Streams,
        scale: WorkingScale,
        reader: TileReader,
        kept: Sequence[Sample],
        holdout: Holdout,
        labelled_tiles: int,
        start_version: str | None,
    ) -> dict[str, Any]:
        """Fit the temperature, score the tiles kept back, write the model; the run's result."""
        spec, sums = self._spec, self._sums
        before = self._clock()
        config = ModelConfig(spec.version, spec.classes, loop.model.record, scale, spec.recipe)
        teacher = LoadedModel(loop.teacher, config)
        temperature = fit_temperature(teacher, [reader.read(s) for s in kept], units=holdout.units)
        figures = self._score(LoadedModel(loop.teacher, replace(config, temperature=temperature)), kept)
        metrics = {
            "losses": {"x": sums.mean(sums.x), "u": sums.mean(sums.u), "total": sums.mean(sums.total)},
            "mask_ratio": sums.mean(sums.mask_ratio) if loop.first_pool_step < loop.steps else 0.0,
            "pool_tiles": streams.pool_tiles(loop.first_pool_step, loop.steps),
            "labelled_tiles": labelled_tiles,
            "steps": loop.steps,
            "skipped_steps": sums.skipped,
            "seconds": sums.seconds + self._clock() - before,
            "holdout": figures,
            "held_back": _held_back_json(holdout),
        }
        notes = [*self._notes, *(f"pool tile {t} left out: {e}" for t, e in sorted(streams.unreadable.items()))]
        config = replace(
            config, temperature=temperature, metrics=metrics, provenance=self._provenance(labelled_tiles, start_version)
        )
        save_model(self._folder / MODEL_NAME, loop.teacher, config)
        result = {
            "version": spec.version,
            "method": spec.recipe.method,
            "model": str(self._folder / MODEL_NAME),
            "parameters": parameter_count(loop.teacher),
            "reduction": scale.reduction,
            "temperature": temperature,
            "start": start_version,
            "notes": notes,
            **metrics,
        }
        self._say("done", **{k: result[k] for k in ("steps", "seconds", "losses", "mask_ratio", "pool_tiles", "notes")})
        return dict(json.loads(dump_json(result)))

    def _score(self, loaded: LoadedModel, kept: Sequence[Sample]) -> dict[str, Any] | None:
        if not kept:
            return None
        count = self._spec.classes.count

        def pairs() -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
            for sample in kept:
                if self._stop():
                    raise Cancelled("run", "stopped before its model was written", _RESUME)
                assert sample.mask is not None
                yield str(sample.tile), read_image(sample.image), read_class_ids(sample.mask, count)

        return evaluate(Predictor(loaded), self._spec.classes, pairs(), tau=self._spec.recipe.tau).to_json()

    def _provenance(self, labelled_tiles: int, start_version: str | None) -> dict[str, Any]:
        source = encoder_record(self._spec.recipe.segmenter).weights
        return {
            **self._spec.provenance,
            "seed": self._spec.seed,
            "start": start_version,
            "labelled_tiles": labelled_tiles,
            "encoder_weights": source.origin if source else "none: trained from scratch",
            "encoder_licence": source.licence if source else None,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": self._device,
        }


class _Pace:
    """Seconds a step takes, apart for steps with and without the pool, and so the time that is left."""

    def __init__(self, loop: TrainingLoop) -> None:
        self._first_pool_step, self._steps = loop.first_pool_step, loop.steps
        self._seconds: dict[bool, float] = {}

    def add(self, report: StepReport, seconds: float) -> None:
        pool = report.unlabelled_weight > 0
        self._seconds[pool] = 0.9 * self._seconds[pool] + 0.1 * seconds if pool in self._seconds else seconds

    def seconds_per_step(self, pool: bool) -> float:
        # A step with pool costs about twice one without, until one has been seen.
        guess = self._seconds.get(not pool, 0.0) * (2.0 if pool else 0.5)
        return self._seconds.get(pool, guess)

    def left_s(self, step: int) -> float:
        plain = max(0, min(self._first_pool_step, self._steps) - step)
        return plain * self.seconds_per_step(False) + (self._steps - step - plain) * self.seconds_per_step(True)


def _step_json(report: StepReport, pace: _Pace, pool_tiles: int) -> dict[str, Any]:
    return {
        "step": report.step,
        "steps": report.steps,
        "losses": {"x": report.x, "u": report.u, "total": report.total},
        "mask_ratio": report.mask_ratio,
        "unlabelled_weight": report.unlabelled_weight,
        "gradient_norm": report.gradient_norm,
        "pool_tiles": pool_tiles,
        "seconds_per_step": pace.seconds_per_step(report.unlabelled_weight > 0),
        "eta_s": pace.left_s(report.step),
    }


def _held_back_json(holdout: Holdout) -> dict[str, Any]:
    return {"by": holdout.by, "tiles": sorted(holdout.kept)}


def _long_side_px(samples: Sequence[Sample]) -> int:
    """The median long side of the labelled images, which decides the working scale."""
    sides = sorted(max(image_size(s.image)) for s in samples)
    return sides[len(sides) // 2]


@contextmanager
def _deterministic(device: str) -> Iterator[None]:
    """Bit-exact kernels on the CPU; some that are needed have no such form on a GPU."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(device == "cpu" or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, so that a run that is still stopping and its successor never write at once."""
    if not folder.is_dir():
        raise NotFound(str(folder), "no such folder", "give a run folder")
    with (folder / "lock").open("w") as lock:
        for _ in range(_LOCK_TRIES):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(_LOCK_PAUSE_S)
        else:
            raise Conflict(str(folder), "another process trains this run", "wait until it has stopped")
        yield


def _write_whole(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
