"""A run that trains nothing: the norms of its start are adapted to the pool, and the model is handed in as any other.

It has no checkpoint, since it takes seconds to a minute or two: stopped or killed, it starts again, and the same seed
gives the same model. It looks at no label and gives the model no figure; what the model is worth is for the gate to
say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpamatch.errors import BadInput, Cancelled
from mpamatch.files.images import read_image
from mpamatch.network.devices import deterministic
from mpamatch.network.model import parameter_count
from mpamatch.network.weights import LoadedModel, dump_json, load_model, save_model
from mpamatch.training.batches import Sample
from mpamatch.training.run import Say
from mpamatch.training.run_files import MODEL_NAME
from mpamatch.training.run_spec import RunSpec
from mpamatch.training.statistics import BATCH, ROUNDS, adapted_config, pool_batches, reestimate_norms


class AdaptRun:
    """One pass over a run folder whose plan says ``adapt``; see :func:`mpamatch.training.run_folder.train_run`."""

    def __init__(
        self, folder: Path, spec: RunSpec, clock: Callable[[], float], stop: Callable[[], bool], say: Say, device: str
    ) -> None:
        self._folder, self._spec, self._clock, self._stop, self._say = folder, spec, clock, stop, say
        self._device = device
        self._unread: dict[Path, BadInput] = {}

    def adapt(self) -> dict[str, Any]:
        """The result of the run. Raises BadInput where there is no start, no norm in it or no image that can be read,
        Cancelled when stopped."""
        spec, began = self._spec, self._clock()
        if spec.threads is not None:
            torch.set_num_threads(spec.threads)
        loaded = self._start()
        version = spec.start_version or loaded.config.version
        self._say("start", version=spec.version, adapts=version, pool_tiles=len(spec.pool), device=self._device)
        pool = {sample.image: sample for sample in spec.pool}  # tiles that show the same are one file
        batches = pool_batches(loaded, list(pool), self._read, seed=spec.seed, um_per_px=_scales(spec.pool))
        with deterministic(self._device):
            count = reestimate_norms(loaded.module, self._told(batches, max(1, ROUNDS * len(pool) // BATCH)))
        adapted = {
            "from": version,
            "images": len(pool) - len(self._unread),
            "batches": count,
            "seed": spec.seed,
            "rounds": ROUNDS,
        }
        config = adapted_config(loaded.config, spec.version, adapted)
        save_model(self._folder / MODEL_NAME, loaded.module, config, texts=loaded.texts)
        notes = [f"the norms of {version} were adapted to {adapted['images']} images of the pool; no label was learnt"]
        notes += [f"pool tile {pool[path].tile} left out: {error}" for path, error in self._unread.items()]
        result = {
            "version": spec.version,
            "model": str(self._folder / MODEL_NAME),
            "start": version,
            "adapted": adapted,
            "parameters": parameter_count(loaded.module),
            "reduction": config.scale.reduction,
            "temperature": config.temperature,
            "labelled_tiles": 0,
            "pool_tiles": adapted["images"],
            "steps": count,
            "seconds": self._clock() - began,
            "notes": notes,
        }
        self._say("done", **{name: result[name] for name in ("steps", "seconds", "pool_tiles", "notes")})
        return dict(json.loads(dump_json(result)))

    def _start(self) -> LoadedModel:
        spec = self._spec
        if spec.start is None:
            raise BadInput("run", "adapts no model", "name the model's folder as start")
        return load_model(spec.start, self._device, weights_dir=spec.weights_dir, allow_hub=spec.allow_hub)

    def _read(self, path: Path) -> NDArray[np.uint8] | None:
        try:
            return read_image(path)
        except BadInput as error:
            self._unread[path] = error
            return None

    def _told(self, batches: Iterator[Tensor], planned: int) -> Iterator[Tensor]:
        """The batches as they come, each told as a step."""
        began = self._clock()
        for step, batch in enumerate(batches, start=1):
            if self._stop():
                raise Cancelled("run", f"stopped before batch {step} of {planned}", "start it again")
            yield batch
            each_s = (self._clock() - began) / step
            self._say("step", step=step, steps=planned, eta_s=each_s * max(0, planned - step), seconds_per_step=each_s)


def _scales(pool: Sequence[Sample]) -> dict[Path, float]:
    return {sample.image: sample.um_per_px for sample in pool if sample.um_per_px is not None}
