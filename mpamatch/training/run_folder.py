"""A run folder: ``run.json`` in; progress, checkpoint, model and result out. Resumes where it was stopped.

The one place that ties reading, the loop, checkpoints and evaluation together; the train worker and the command line
start the same function. It reads a clock only through the ``clock`` it is given. Of several processes that train one
run, each goes through all of this, and the first alone writes.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from mpamatch.domain.classes import IGNORE
from mpamatch.errors import BadInput, Cancelled, Conflict, NotFound, NotWritten
from mpamatch.files.images import image_size, read_image
from mpamatch.inference import Predictor
from mpamatch.network.devices import choose_device, choose_precision, probe
from mpamatch.network.encoders import EncoderRecord
from mpamatch.network.encoders.tokens import TokenEncoder
from mpamatch.network.model import Segmenter, parameter_count
from mpamatch.network.prototypes import health
from mpamatch.network.weights import LoadedModel, ModelConfig, WorkingScale, dump_json, save_model
from mpamatch.training.batches import Sample, Streams, TileReader, read_class_ids
from mpamatch.training.checkpoints import load_checkpoint, save_checkpoint
from mpamatch.training.curves import TensorBoard, curves_picture
from mpamatch.training.evaluation import evaluate, fit_temperature
from mpamatch.training.first_model import branch_json, first_model
from mpamatch.training.holdout import Holdout, choose_holdout
from mpamatch.training.loop import LoopState, TrainingLoop
from mpamatch.training.pace import Pace, Sums, step_json, told_steps
from mpamatch.training.peers import Peers, joined, local_place
from mpamatch.training.run_spec import RunSpec, read_run
from mpamatch.training.step_sums import StepReport

RESULT_NAME, PROGRESS_NAME, ERROR_NAME = "result.json", "progress.jsonl", "error.json"
MODEL_NAME, CHECKPOINT_NAME = "model", "checkpoint"
CURVES_NAME, TENSORBOARD_NAME = "curves.png", "tensorboard"
_RESUME = "start it again to resume"
_MEMORY = "out of memory"
_SCALE_OFF = 1.5
"""By how much the scale of the tiles may differ from the encoder's before it is said."""
_LOCK_TRIES, _LOCK_PAUSE_S = 20, 0.25

Event = Mapping[str, Any]


def train_run(
    folder: Path,
    *,
    clock: Callable[[], float],
    stop: Callable[[], bool] = lambda: False,
    tell: Callable[[Event], None] = lambda event: None,
    before_share: Callable[[int, int], None] = lambda step, parts: None,
) -> dict[str, Any]:
    """Train the run of a folder, from its checkpoint where there is one, and return (and write) its result.

    Started by torchrun, it is one of several processes that do so together; only the first returns a result, the
    others an empty one. ``before_share`` is that of :class:`TrainingLoop`.

    ``stop`` is asked after each step: when it says yes the run is checkpointed and Cancelled is raised. ``tell``
    gets each event that goes to ``progress.jsonl``. A finished run is not trained again. Raises BadInput, NotFound,
    Conflict when another process trains the same folder, and Unavailable when memory is not enough for one tile,
    NotWritten when the disk takes no more.
    """
    place = local_place()
    with ExitStack() as held:
        if place == 0:
            held.enter_context(_alone(folder))
        finished = folder / RESULT_NAME
        if finished.is_file():
            return dict(json.loads(finished.read_text(encoding="utf-8"))) if place == 0 else {}
        spec = read_run(folder)
        machine = probe()
        device = choose_device(spec.device, machine, place=place)
        precision = choose_precision(spec.precision, device, machine)
        peers = held.enter_context(joined(device))
        peers.wait()
        try:
            progress = folder / PROGRESS_NAME if peers.first else Path(os.devnull)
            with progress.open("a", encoding="utf-8") as lines:
                compute = _Compute(device, precision, peers, before_share)
                result = _Run(folder, spec, clock, stop, _Teller(lines, tell), compute).train()
            if peers.first:
                _write_whole(finished, dump_json(result))
        except (OSError, SafetensorError) as error:
            why = getattr(error, "strerror", None) or error
            remedy = "free disk space and start it again: it resumes from its checkpoint"
            raise NotWritten(f"run {folder.name}", f"could not be written ({why})", remedy) from error
        return result


@dataclass(frozen=True)
class _Compute:
    """What a process of a run computes on and in, and with whom."""

    device: str
    precision: torch.dtype
    peers: Peers
    before_share: Callable[[int, int], None]


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
        self,
        folder: Path,
        spec: RunSpec,
        clock: Callable[[], float],
        stop: Callable[[], bool],
        say: _Teller,
        compute: _Compute,
    ) -> None:
        self._folder, self._spec, self._clock, self._stop, self._say = folder, spec, clock, stop, say
        self._compute, self._device, self._peers = compute, compute.device, compute.peers
        self._sums = Sums()
        self._notes: list[str] = []

    def train(self) -> dict[str, Any]:
        spec = self._spec
        if spec.threads is not None:
            torch.set_num_threads(max(1, spec.threads // self._peers.count))
        labelled, classes_of = self._usable_labelled()
        learnt = sorted(frozenset().union(*classes_of.values()))
        holdout = choose_holdout(labelled, classes_of, spec.recipe.holdout_share)
        pool = [s for s in spec.pool if s.tile not in holdout.kept]
        reduction = spec.recipe.reduction_for(_long_side_px(labelled))
        scale = WorkingScale(reduction, _um_per_px(labelled, reduction))
        reader = TileReader(reduction, spec.classes.count, um_per_px=scale.um_per_px)
        first = first_model(spec, self._device)
        self._notes += first.notes
        self._note_scale(first.module.record, scale)
        streams = Streams(
            [s for s in labelled if s.tile not in holdout.kept],
            pool,
            recipe=spec.recipe,
            reader=reader,
            mean=first.module.record.mean,
            std=first.module.record.std,
            seed=spec.seed,
        )
        loop = TrainingLoop(
            first.module,
            streams,
            spec.recipe,
            pool_tiles=len(pool),
            warm=first.warm,
            seed=spec.seed,
            texts=first.texts,
            precision=self._compute.precision,
            peers=self._peers,
            before_share=self._compute.before_share,
        )
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
            reduction=reduction,
            warm=first.warm,
            threads=torch.get_num_threads(),
            device=self._device,
            processes=self._peers.count,
            precision=str(self._compute.precision).removeprefix("torch."),
            notes=self._notes,
        )
        with _deterministic(self._device):
            self._steps(loop, streams)
        _check_finite(loop.teacher)
        if not self._peers.first:
            return {}
        kept = [s for s in labelled if s.tile in holdout.kept]
        return self._finish(loop, streams, scale, reader, kept, holdout, len(labelled), learnt, first.version)

    def _usable_labelled(self) -> tuple[list[Sample], dict[int, frozenset[int]]]:
        """Labelled tiles that hold at least one label, with their classes; bad ones are left out and said."""
        usable, classes_of, bad = [], {}, None
        for sample in self._spec.labelled:
            assert sample.mask is not None
            try:
                mask = read_class_ids(sample.mask, self._spec.classes.count)
                _check_same_size(sample, mask)
                ids = np.unique(mask)
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

    def _note_scale(self, record: EncoderRecord, scale: WorkingScale) -> None:
        native, given = record.native_um_per_px, scale.um_per_px
        if native and given and not 1 / _SCALE_OFF <= given / native <= _SCALE_OFF:
            self._notes.append(f"tiles are seen at {given:g} um/px, and encoder {record.name} was made at {native:g}")

    def _resume(self, loop: TrainingLoop) -> None:
        state = load_checkpoint(self._folder / CHECKPOINT_NAME)
        if state is not None:
            loop.restore(state)
            self._sums = Sums(**state.values["sums"])
        if loop.parts > 1:
            self._notes.append(f"{_MEMORY} before: each process takes its share of the batch in {loop.parts} parts")

    def _checkpoint(self, loop: TrainingLoop) -> None:
        if not self._peers.first:
            return
        state = loop.state()
        values = {**state.values, "sums": vars(self._sums)}
        save_checkpoint(self._folder / CHECKPOINT_NAME, LoopState(state.tensors, values))

    def _steps(self, loop: TrainingLoop, streams: Streams) -> None:
        with ExitStack() as held:
            board = None
            if self._peers.first:
                board = TensorBoard(self._folder / TENSORBOARD_NAME, loop.step + 1)
                held.callback(board.close)
            self._take_steps(loop, streams, board)

    def _take_steps(self, loop: TrainingLoop, streams: Streams, board: TensorBoard | None) -> None:
        pace = Pace(loop)
        parts = loop.parts
        before = self._clock()
        for report in loop.run():
            now = self._clock()
            self._sums.seconds += now - before
            pace.add(report, now - before)
            before = now
            self._sums.add(report)
            if report.parts > parts:
                parts = report.parts
                self._say_halved(report)
            told = report.step % self._spec.recipe.report_every == 0 or report.step == report.steps
            if told or report.health is not None:
                shown = step_json(report, pace, streams.pool_tiles(loop.first_pool_step, report.step))
                self._say("step", **shown, notes=[n for n in self._notes if n.startswith(_MEMORY)])
                if board is not None:
                    board.add(shown)
            if self._peers.any(self._stop()):
                self._checkpoint(loop)
                raise Cancelled("run", f"stopped after step {report.step} of {report.steps}", _RESUME)
            if report.step % self._spec.recipe.checkpoint_every == 0 or report.step == report.steps:
                self._checkpoint(loop)

    def _say_halved(self, report: StepReport) -> None:
        note = (
            f"{_MEMORY} on {self._device} at step {report.step}: each process takes its share of the batch in "
            f"{report.parts} parts from here on; the batch as a whole stays"
        )
        self._notes.append(note)
        self._say("memory", step=report.step, parts=report.parts, notes=[note])

    def _finish(
        self,
        loop: TrainingLoop,
        streams: Streams,
        scale: WorkingScale,
        reader: TileReader,
        kept: Sequence[Sample],
        holdout: Holdout,
        labelled_tiles: int,
        learnt: Sequence[int],
        start_version: str | None,
    ) -> dict[str, Any]:
        """Fit the temperature, score the tiles kept back, write the model; the run's result."""
        spec, sums = self._spec, self._sums
        before = self._clock()
        branch = branch_json(loop.model, loop.texts)
        config = ModelConfig(spec.version, spec.classes, loop.model.record, scale, spec.recipe, branch=branch)
        teacher = LoadedModel(loop.teacher, config)
        temperature = fit_temperature(teacher, [reader.read(s) for s in kept], units=holdout.units)
        calibrated = LoadedModel(loop.teacher, replace(config, temperature=temperature))
        figures, audit = self._score(calibrated, kept), self._score_audit(calibrated)
        metrics = {
            "losses": sums.losses(loop),
            "mask_ratio": sums.mean(sums.mask_ratio) if loop.first_pool_step < loop.steps else 0.0,
            "pool_tiles": streams.pool_tiles(loop.first_pool_step, loop.steps),
            "class_mask_ratio": sums.class_mask_ratio,
            "prototypes": self._prototypes(loop),
            "labelled_tiles": labelled_tiles,
            "labelled_classes": list(learnt),
            "steps": loop.steps,
            "skipped_steps": sums.skipped,
            "batch_parts": loop.parts,
            "processes": self._peers.count,
            "seconds": sums.seconds + self._clock() - before,
            "holdout": figures,
            "audit": audit,
            "held_back": _held_back_json(holdout),
        }
        notes = [*self._notes, *(f"pool tile {t} left out: {e}" for t, e in sorted(streams.unreadable.items()))]
        config = replace(
            config,
            temperature=temperature,
            metrics=metrics,
            provenance=self._provenance(loop.model, labelled_tiles, start_version),
        )
        self._draw_curves(loop.steps, audit)
        save_model(self._folder / MODEL_NAME, loop.teacher, config, texts=loop.text_state())
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

    def _score_audit(self, loaded: LoadedModel) -> dict[str, Any] | None:
        """Dice on the run's audit tiles; those that cannot be read are left out and said."""
        readable = []
        for sample in self._spec.audit:
            assert sample.mask is not None
            try:
                _check_same_size(sample, read_class_ids(sample.mask, self._spec.classes.count))
                read_image(sample.image)  # its header says nothing of a file that was cut
                readable.append(sample)
            except BadInput as error:
                self._notes.append(f"audit tile {sample.tile} left out: {error}")
        found = self._score(loaded, readable)
        return None if found is None else {name: found[name] for name in ("mdice", "foreground_dice", "images")}

    def _draw_curves(self, steps: int, audit: dict[str, Any] | None) -> None:
        """The picture of the run, from all that was told, by this process and by those before it."""
        if audit is not None:
            board = TensorBoard(self._folder / TENSORBOARD_NAME, steps + 1)
            board.add_audit(steps, audit["mdice"])
            board.close()
        rows = told_steps(self._folder / PROGRESS_NAME)
        (self._folder / CURVES_NAME).write_bytes(curves_picture(rows, self._spec.classes.names, audit))

    def _prototypes(self, loop: TrainingLoop) -> dict[str, Any] | None:
        """How the prototypes ended, and for how much of the run they counted; None without them."""
        if loop.model.branch is None:
            return None
        bank = loop.model.branch.bank
        found = None if bank is None else health(bank)
        return {"share_of_steps": loop.prototype_steps / loop.steps, **({} if found is None else found.to_json())}

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

        scales = {str(s.tile): s.um_per_px for s in kept if s.um_per_px is not None}
        done = evaluate(Predictor(loaded), self._spec.classes, pairs(), tau=self._spec.recipe.tau, um_per_px=scales)
        return done.to_json()

    def _provenance(self, model: Segmenter, labelled_tiles: int, start_version: str | None) -> dict[str, Any]:
        record = model.record
        published = model.encoder.published if isinstance(model.encoder, TokenEncoder) else None
        origin = record.weights.origin if record.weights else published.origin if published else None
        return {
            **self._spec.provenance,
            "seed": self._spec.seed,
            "start": start_version,
            "labelled_tiles": labelled_tiles,
            "encoder_weights": origin or ("those of the start" if start_version else "none: trained from scratch"),
            "encoder_licence": record.licence_text,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": self._device,
        }


def _check_finite(model: torch.nn.Module) -> None:
    """A short run may end before enough of its losses were not finite to stop it; such a model answers nothing."""
    if not all(bool(torch.isfinite(t).all()) for t in model.state_dict().values()):
        raise BadInput("run", "its weights are not finite after the last step", "lower recipe.lr and check the images")


def _held_back_json(holdout: Holdout) -> dict[str, Any]:
    return {"by": holdout.by, "tiles": sorted(holdout.kept)}


def _check_same_size(sample: Sample, mask: NDArray[np.uint8]) -> None:
    width_px, height_px = image_size(sample.image)
    if mask.shape != (height_px, width_px):
        sizes = f"{mask.shape[1]} x {mask.shape[0]} px, its image {width_px} x {height_px} px"
        raise BadInput(str(sample.mask), sizes, "give a mask of the image's size")


def _um_per_px(samples: Sequence[Sample], reduction: float) -> float | None:
    """The working scale in micrometres, by the median labelled tile; None unless the scale of each is known."""
    known = sorted(s.um_per_px for s in samples if s.um_per_px is not None)
    return known[len(known) // 2] * reduction if len(known) == len(samples) else None


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
