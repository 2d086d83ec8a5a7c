"""What a run is to do: the frozen content of ``run.json``, as the opener of a run writes it and training reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mpamatch.domain.classes import ClassSet
from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput, NotFound
from mpamatch.training.batches import Sample

RUN_NAME = "run.json"


@dataclass(frozen=True)
class RunSpec:
    """What a run is to do: the frozen content of ``run.json``.

    ``audit`` are masked tiles that are neither trained on nor looked at before the end: what comes out is told of them.
    ``start`` is the model folder to begin with; ``fresh_head`` draws its head anew. A start's own head makes the run a
    warm one, short and without a ramp, unless ``full_schedule``: for a start that never saw tissue of this source.
    ``adapt``: nothing is trained; the norms of ``start`` are adapted to the pool, and ``start_version`` is what that is
    called where it serves. ``threads`` are for all processes together; ``device`` and ``precision`` are those of the
    settings. Published encoder weights are read from ``weights_dir``, from the hub only with ``allow_hub``.
    """

    seed: int
    recipe: Recipe
    classes: ClassSet
    version: str
    labelled: tuple[Sample, ...]
    pool: tuple[Sample, ...]
    audit: tuple[Sample, ...] = ()
    start: Path | None = None
    fresh_head: bool = False
    full_schedule: bool = False
    adapt: bool = False
    start_version: str | None = None
    threads: int | None = None
    device: str = "auto"
    precision: str = "auto"
    weights_dir: Path | None = None
    allow_hub: bool = False
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        def row(sample: Sample) -> dict[str, Any]:
            values: dict[str, Any] = {"tile": sample.tile, "group": sample.group, "image": str(sample.image)}
            values |= {"mask": str(sample.mask)} if sample.mask is not None else {}
            return values | ({"um_per_px": sample.um_per_px} if sample.um_per_px is not None else {})

        adapted = {"adapt": True, "start_version": self.start_version} if self.adapt else {}
        return adapted | {
            "seed": self.seed,
            "recipe": self.recipe.to_json(),
            "classes": self.classes.to_json(),
            "version": self.version,
            "labelled": [row(s) for s in self.labelled],
            "pool": [row(s) for s in self.pool],
            "audit": [row(s) for s in self.audit],
            "start": None if self.start is None else str(self.start),
            "fresh_head": self.fresh_head,
            "full_schedule": self.full_schedule,
            "threads": self.threads,
            "device": self.device,
            "precision": self.precision,
            "weights_dir": None if self.weights_dir is None else str(self.weights_dir),
            "allow_hub": self.allow_hub,
            "provenance": dict(self.provenance),
        }


def read_run(folder: Path) -> RunSpec:
    """The run of a folder. Raises NotFound without ``run.json``, BadInput naming what is wrong in it."""
    path = folder / RUN_NAME
    if not path.is_file():
        raise NotFound(str(path), "no such file", "give a run folder")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        start, threads, weights_dir = values.get("start"), values.get("threads"), values.get("weights_dir")
        return RunSpec(
            seed=int(values["seed"]),
            recipe=Recipe.from_json(values["recipe"]),
            classes=ClassSet.from_json(values["classes"]),
            version=str(values["version"]),
            labelled=tuple(_sample(row, masked=True) for row in values["labelled"]),
            pool=tuple(_sample(row, masked=False) for row in values["pool"]),
            audit=tuple(_sample(row, masked=True) for row in values.get("audit", ())),
            start=None if start is None else Path(start),
            fresh_head=values.get("fresh_head") is True,
            full_schedule=values.get("full_schedule") is True,
            adapt=values.get("adapt") is True,
            start_version=None if values.get("start_version") is None else str(values["start_version"]),
            threads=None if threads is None else int(threads),
            device=str(values.get("device", "auto")),
            precision=str(values.get("precision", "auto")),
            weights_dir=None if weights_dir is None else Path(weights_dir),
            allow_hub=values.get("allow_hub") is True,
            provenance=dict(values.get("provenance", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(str(path), f"not a run ({error!r})", "give seed, recipe, classes, labelled and pool") from error


def _sample(row: Mapping[str, Any], *, masked: bool) -> Sample:
    mask = Path(row["mask"]) if masked else None
    um_per_px = row.get("um_per_px")
    known = None if um_per_px is None else float(um_per_px)
    return Sample(int(row["tile"]), str(row["group"]), Path(row["image"]), mask, known)
