"""How a run ends: its temperature, the scores of what it kept back, its picture, its model and its result."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mpamatch.errors import Cancelled
from mpamatch.files.images import read_image
from mpamatch.inference import Predictor
from mpamatch.network.encoders.tokens import TokenEncoder
from mpamatch.network.model import Segmenter, parameter_count
from mpamatch.network.prototypes import health
from mpamatch.network.weights import LoadedModel, ModelConfig, dump_json, save_model
from mpamatch.training.batches import Sample, Streams, read_class_ids
from mpamatch.training.course import Course
from mpamatch.training.curves import TensorBoard, curves_picture
from mpamatch.training.evaluation import evaluate, fit_temperature
from mpamatch.training.first_model import branch_json
from mpamatch.training.holdout import Holdout
from mpamatch.training.loop import TrainingLoop
from mpamatch.training.pace import Sums, told_steps
from mpamatch.training.run_files import CURVES_NAME, MODEL_NAME, PROGRESS_NAME, TENSORBOARD_NAME
from mpamatch.training.run_spec import RunSpec
from mpamatch.training.run_tiles import RunTiles, readable_audit


@dataclass(frozen=True)
class RunEnd:
    """What is left to do once every step is taken. ``notes`` grows by what is found on the way."""

    folder: Path
    spec: RunSpec
    tiles: RunTiles
    device: str
    processes: int
    start_version: str | None
    stop: Callable[[], bool]
    notes: list[str]

    def write(self, course: Course, streams: Streams, sums: Sums, seconds: Callable[[], float]) -> dict[str, Any]:
        """Write the model and the picture; the run's result. ``seconds`` says how long the run took when it is asked.

        Raises Cancelled.
        """
        spec, loop, scale = self.spec, course.loop, self.tiles.scale
        branch = branch_json(loop.model, loop.texts)
        config = ModelConfig(spec.version, spec.classes, loop.model.record, scale, spec.recipe, branch=branch)
        teacher = LoadedModel(loop.teacher, config)
        kept = self.tiles.kept
        temperature = fit_temperature(
            teacher, [self.tiles.reader.read(s) for s in kept], units=self.tiles.holdout.units
        )
        calibrated = LoadedModel(loop.teacher, replace(config, temperature=temperature))
        figures, audit = self._score(calibrated, kept), self._score_audit(calibrated)
        metrics = {
            "losses": sums.losses(loop),
            "mask_ratio": sums.mean(sums.mask_ratio) if loop.first_pool_step < loop.steps else 0.0,
            "pool_tiles": streams.pool_tiles(loop.first_pool_step, loop.steps),
            "class_mask_ratio": sums.class_mask_ratio,
            "pseudo_labels": sums.pseudo_labels,
            "prototypes": _prototypes(loop),
            "labelled_tiles": len(self.tiles.labelled),
            "labelled_classes": list(self.tiles.learnt),
            "steps": loop.steps,
            "lora_guard": None if course.verdict is None else course.verdict.to_json(),
            "skipped_steps": sums.skipped,
            "batch_parts": loop.parts,
            "processes": self.processes,
            "seconds": seconds(),
            "holdout": figures,
            "audit": audit,
            "held_back": held_back_json(self.tiles.holdout),
        }
        notes = [*self.notes, *(f"pool tile {t} left out: {e}" for t, e in sorted(streams.unreadable.items()))]
        config = replace(
            config,
            temperature=temperature,
            metrics=metrics,
            provenance=self._provenance(loop.model),
        )
        self._draw_curves(course.planned, audit)
        save_model(self.folder / MODEL_NAME, loop.teacher, config, texts=loop.text_state())
        result = {
            "version": spec.version,
            "method": spec.recipe.method,
            "model": str(self.folder / MODEL_NAME),
            "parameters": parameter_count(loop.teacher),
            "reduction": scale.reduction,
            "temperature": temperature,
            "start": self.start_version,
            "notes": notes,
            **metrics,
        }
        return dict(json.loads(dump_json(result)))

    def _score_audit(self, loaded: LoadedModel) -> dict[str, Any] | None:
        """Dice on the run's audit tiles, those that can be read."""
        found = self._score(loaded, readable_audit(self.spec, self.notes))
        return None if found is None else {name: found[name] for name in ("mdice", "foreground_dice", "images")}

    def _score(self, loaded: LoadedModel, samples: Sequence[Sample]) -> dict[str, Any] | None:
        if not samples:
            return None
        count = self.spec.classes.count

        def pairs() -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
            for sample in samples:
                if self.stop():
                    raise Cancelled("run", "stopped before its model was written", "start it again to resume")
                assert sample.mask is not None
                yield str(sample.tile), read_image(sample.image), read_class_ids(sample.mask, count)

        scales = {str(s.tile): s.um_per_px for s in samples if s.um_per_px is not None}
        done = evaluate(Predictor(loaded), self.spec.classes, pairs(), tau=self.spec.recipe.tau, um_per_px=scales)
        return done.to_json()

    def _draw_curves(self, steps: int, audit: dict[str, Any] | None) -> None:
        """The picture of the run, from all that was told, by this process and by those before it."""
        if audit is not None:
            board = TensorBoard(self.folder / TENSORBOARD_NAME, steps + 1)
            board.add_audit(steps, audit["mdice"])
            board.close()
        rows = told_steps(self.folder / PROGRESS_NAME)
        (self.folder / CURVES_NAME).write_bytes(curves_picture(rows, self.spec.classes.names, audit))

    def _provenance(self, model: Segmenter) -> dict[str, Any]:
        record = model.record
        published = model.encoder.published if isinstance(model.encoder, TokenEncoder) else None
        origin = record.weights.origin if record.weights else published.origin if published else None
        started = "those of the start" if self.start_version else "none: trained from scratch"
        return {
            **self.spec.provenance,
            "seed": self.spec.seed,
            "start": self.start_version,
            "labelled_tiles": len(self.tiles.labelled),
            "encoder_weights": origin or started,
            "encoder_licence": record.licence_text,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "device": self.device,
        }


def held_back_json(holdout: Holdout) -> dict[str, Any]:
    """Which tiles are kept back, and what was drawn."""
    return {"by": holdout.by, "tiles": sorted(holdout.kept)}


def _prototypes(loop: TrainingLoop) -> dict[str, Any] | None:
    """How the prototypes ended, and for how much of the run they counted; None without them."""
    if loop.model.branch is None:
        return None
    bank = loop.model.branch.bank
    found = None if bank is None else health(bank)
    return {"share_of_steps": loop.prototype_steps / loop.steps, **({} if found is None else found.to_json())}
