"""One run from its plan to its model: tiles, first model and streams, then step by step, checkpointed and told.

The one place that ties reading, the loop, checkpoints and evaluation together. It reads a clock only through the
``clock`` it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.lora_guard import GIVEN_UP, guard_step
from mpamatch.domain.object_sizes import median_diameter_px
from mpamatch.errors import BadInput, Cancelled
from mpamatch.network.devices import deterministic
from mpamatch.network.encoders import EncoderRecord
from mpamatch.network.tuning import tuning_mode
from mpamatch.network.weights import LoadedModel, ModelConfig, WorkingScale
from mpamatch.training.batches import Sample, Streams, TileReader, as_labels
from mpamatch.training.checkpoints import load_checkpoint, save_checkpoint
from mpamatch.training.course import Course, Guard
from mpamatch.training.curves import TensorBoard
from mpamatch.training.evaluation import labelled_loss
from mpamatch.training.first_model import FirstModel, first_model, settled_skips, settled_texts
from mpamatch.training.kept_back import CHECK_EVERY, KeptBack
from mpamatch.training.loop import LoopState, TrainingLoop
from mpamatch.training.pace import Pace, Sums, step_json
from mpamatch.training.peers import Peers
from mpamatch.training.run_end import RunEnd, held_back_json
from mpamatch.training.run_files import CHECKPOINT_NAME, TENSORBOARD_NAME
from mpamatch.training.run_spec import RunSpec
from mpamatch.training.run_tiles import RunTiles, choose_tiles
from mpamatch.training.step_sums import StepReport

_MEMORY = "out of memory"
_TOLD_AGAIN = (_MEMORY, GIVEN_UP)
"""How notes begin that each step tells again, since who looks later sees the last one."""
_SCALE_OFF = 1.5
"""By how much the scale of the tiles may differ from the encoder's before it is said."""

Event = Mapping[str, Any]


class Say(Protocol):
    """Tells an event of a run by name, with its values."""

    def __call__(self, event: str, **values: Any) -> None: ...


@dataclass(frozen=True)
class Compute:
    """What a process of a run computes on and in, and with whom."""

    device: str
    precision: torch.dtype
    peers: Peers
    before_share: Callable[[int, int], None]


class Run:
    """One pass over a run folder; see :func:`mpamatch.training.run_folder.train_run`."""

    def __init__(
        self,
        folder: Path,
        spec: RunSpec,
        clock: Callable[[], float],
        stop: Callable[[], bool],
        say: Say,
        compute: Compute,
    ) -> None:
        self._folder, self._spec, self._clock, self._stop, self._say = folder, spec, clock, stop, say
        self._compute, self._device, self._peers = compute, compute.device, compute.peers
        self._sums = Sums()
        self._notes: list[str] = []

    def train(self) -> dict[str, Any]:
        """The result of the run; an empty one where this process is not the first of several."""
        spec = self._spec
        if spec.threads is not None:
            torch.set_num_threads(max(1, spec.threads // self._peers.count))
        tiles = choose_tiles(spec, self._notes)
        spec = self._settled(tiles.labelled, tiles.reader)
        first = first_model(spec, self._device)
        warm, start_version, record = first.warm, first.version, first.module.record
        self._notes += first.notes
        self._note_scale(record, tiles.scale)
        streams = Streams(
            tiles.trained,
            list(tiles.pool),
            recipe=spec.recipe,
            reader=tiles.reader,
            mean=record.mean,
            std=record.std,
            seed=spec.seed,
        )
        self._kept_back = self._checked(tiles, record)
        guard = self._guard(ModelConfig(spec.version, spec.classes, record, tiles.scale, spec.recipe), warm, tiles)
        unused = [first]
        del first  # a run's loops take turns, and each begins with a model of its own

        def make(frozen: bool) -> TrainingLoop:
            begins = unused.pop() if unused else first_model(spec, self._device)
            return self._loop(begins, streams, len(tiles.pool), frozen)

        course = self._resumed(make, guard)
        if spec.recipe.uses_pool and not tiles.pool:
            self._notes.append("the pool is empty: trained on labels alone")
        self._say_start(course, tiles, warm)
        with deterministic(self._device):
            self._steps(course, streams)
        _check_finite(course.loop.teacher)
        if not self._peers.first:
            return {}
        end = RunEnd(self._folder, spec, tiles, self._device, self._peers.count, start_version, self._stop, self._notes)
        before = self._clock()
        result = end.write(course, streams, self._sums, lambda: self._sums.seconds + self._clock() - before)
        self._say("done", **{k: result[k] for k in ("steps", "seconds", "losses", "mask_ratio", "pool_tiles", "notes")})
        return result

    def _say_start(self, course: Course, tiles: RunTiles, warm: bool) -> None:
        self._say(
            "start",
            version=self._spec.version,
            method=self._spec.recipe.method,
            step=course.taken,
            steps=course.planned,
            labelled_tiles=len(tiles.labelled),
            pool_tiles=len(tiles.pool),
            held_back=held_back_json(tiles.holdout),
            reduction=tiles.scale.reduction,
            warm=warm,
            threads=torch.get_num_threads(),
            device=self._device,
            processes=self._peers.count,
            precision=str(self._compute.precision).removeprefix("torch."),
            notes=self._notes,
        )

    def _note_scale(self, record: EncoderRecord, scale: WorkingScale) -> None:
        native, given = record.native_um_per_px, scale.um_per_px
        if native and given and not 1 / _SCALE_OFF <= given / native <= _SCALE_OFF:
            self._notes.append(f"tiles are seen at {given:g} um/px, and encoder {record.name} was made at {native:g}")

    def _settled(self, labelled: Sequence[Sample], reader: TileReader) -> RunSpec:
        """The run's plan, from here on with skips and texts that are settled."""
        count = self._spec.classes.count
        recipe, skips = settled_skips(
            self._spec, lambda: median_diameter_px((reader.mask(sample) for sample in labelled), count)
        )
        self._spec = replace(self._spec, recipe=recipe)
        recipe, texts = settled_texts(self._spec)
        self._spec = replace(self._spec, recipe=recipe)
        self._notes += [note for note in (skips, texts) if note is not None]
        return self._spec

    def _guard(self, config: ModelConfig, warm: bool, chosen: RunTiles) -> Guard | None:
        """What watches low-rank tuning; None for another one, and where there is nothing to watch it by."""
        recipe = self._spec.recipe
        if tuning_mode(config.encoder, recipe) != "lora" or recipe.lora_guard == 0:
            return None
        tiles = [chosen.reader.read(sample) for sample in chosen.kept]
        if not any((as_labels(tile.mask) != IGNORE).any() for tile in tiles):
            self._notes.append("low-rank tuning has no guard: no labelled tile is kept back")
            return None

        def loss(loop: TrainingLoop) -> float:
            found = torch.tensor(labelled_loss(LoadedModel(loop.teacher, config), tiles), dtype=torch.float64)
            return float(self._peers.of_first(found))  # devices may round otherwise, and all must decide alike

        return Guard(guard_step(recipe.steps(warm=warm), recipe.lora_guard_at), recipe.lora_guard, loss)

    def _checked(self, tiles: RunTiles, record: EncoderRecord) -> KeptBack:
        """Where pseudo-labels are held against labels: nowhere in a run without any, and by the first process alone."""
        recipe = self._spec.recipe
        checks = recipe.uses_pool and bool(tiles.pool) and self._peers.first
        return KeptBack([tiles.reader.read(s) for s in tiles.kept] if checks else [], record, recipe.crop_px)

    def _check_pseudo_labels(self, course: Course, report: StepReport) -> bool:
        """Whether this is a step after which they are checked, and there was something to check them by."""
        if report.unlabelled_weight == 0 or (report.step % CHECK_EVERY and report.step != report.steps):
            return False
        if (found := course.loop.check(self._kept_back)) is None:
            return False
        self._sums.pseudo_labels = {**found.to_json(), "step": report.told_step}
        return True

    def _loop(self, first: FirstModel, streams: Streams, pool_tiles: int, frozen: bool) -> TrainingLoop:
        recipe = self._spec.recipe
        return TrainingLoop(
            first.module,
            streams,
            replace(recipe, tuning="frozen") if frozen else recipe,
            pool_tiles=pool_tiles,
            warm=first.warm,
            seed=self._spec.seed,
            texts=first.texts,
            precision=self._compute.precision,
            peers=self._peers,
            before_share=self._compute.before_share,
        )

    def _resumed(self, make: Callable[[bool], TrainingLoop], guard: Guard | None) -> Course:
        """The run's course, from its checkpoint where there is one."""
        state = load_checkpoint(self._folder / CHECKPOINT_NAME)
        course = Course(make, guard, state)
        if state is not None:
            self._sums = Sums(**state.values["sums"])
        if course.verdict is not None and course.verdict.note is not None:
            self._notes.append(course.verdict.note)
        if (parts := course.loop.parts) > 1:
            self._notes.append(f"{_MEMORY} before: each process takes its share of the batch in {parts} parts")
        return course

    def _checkpoint(self, course: Course) -> None:
        if not self._peers.first:
            return
        state = course.state()
        values = {**state.values, "sums": vars(self._sums)}
        save_checkpoint(self._folder / CHECKPOINT_NAME, LoopState(state.tensors, values))

    def _steps(self, course: Course, streams: Streams) -> None:
        with ExitStack() as held:
            board = None
            if self._peers.first:
                board = TensorBoard(self._folder / TENSORBOARD_NAME, course.taken + 1)
                held.callback(board.close)
            self._take_steps(course, streams, board)

    def _take_steps(self, course: Course, streams: Streams, board: TensorBoard | None) -> None:
        pace = Pace(course)
        parts, said = course.loop.parts, course.verdict
        before = self._clock()
        for report in course.run():
            now = self._clock()
            self._sums.seconds += now - before
            if course.phase == pace.phase or not pace.knows:  # else it changed loops too, which lasts
                pace.add(report, now - before)
            before = now
            self._sums.add(report)
            checked = self._check_pseudo_labels(course, report)
            if report.parts > parts:
                parts = report.parts
                self._say_halved(report)
            if course.verdict is not said:
                said = course.verdict
                self._say_verdict(course)
            ended = report.told_step == report.told_steps
            told = report.told_step % self._spec.recipe.report_every == 0 or ended
            if told or checked or report.health is not None:
                pool_tiles = streams.pool_tiles(course.loop.first_pool_step, report.step)
                shown = step_json(report, pace, pool_tiles, self._device)
                shown["pseudo_labels"] = self._sums.pseudo_labels
                self._say("step", **shown, notes=[n for n in self._notes if n.startswith(_TOLD_AGAIN)])
                if board is not None:
                    board.add(shown)
            if course.phase != pace.phase:
                pace = Pace(course)
            if self._peers.any(self._stop()):
                self._checkpoint(course)
                problem = f"stopped after step {report.told_step} of {report.told_steps}"
                raise Cancelled("run", problem, "start it again to resume")
            if report.told_step % self._spec.recipe.checkpoint_every == 0 or ended:
                self._checkpoint(course)
        if course.verdict is not said:
            self._say_verdict(course)

    def _say_verdict(self, course: Course) -> None:
        """What the guard decided; a note of the run only where tuning is not what the recipe asked for."""
        verdict = course.verdict
        assert verdict is not None
        notes = [] if verdict.note is None else [verdict.note]
        self._notes += notes
        self._say("guard", **verdict.to_json(), notes=notes)

    def _say_halved(self, report: StepReport) -> None:
        note = (
            f"{_MEMORY} on {self._device} at step {report.told_step}: each process takes its share of the batch in "
            f"{report.parts} parts from here on; the batch as a whole stays"
        )
        self._notes.append(note)
        self._say("memory", step=report.told_step, parts=report.parts, notes=[note])


def _check_finite(model: torch.nn.Module) -> None:
    """A short run may end before enough of its losses were not finite to stop it; such a model answers nothing."""
    if not all(bool(torch.isfinite(t).all()) for t in model.state_dict().values()):
        raise BadInput("run", "its weights are not finite after the last step", "lower recipe.lr and check the images")
