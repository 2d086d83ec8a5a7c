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
    """What a run is to do: the frozen content of ``run.json``."""

    seed: int
    recipe: Recipe
    classes: ClassSet
    version: str
    labelled: tuple[Sample, ...]
    pool: tuple[Sample, ...]
    start: Path | None = None
    threads: int | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        def row(sample: Sample) -> dict[str, Any]:
            values = {"tile": sample.tile, "group": sample.group, "image": str(sample.image)}
            return values | ({"mask": str(sample.mask)} if sample.mask is not None else {})

        return {
            "seed": self.seed,
            "recipe": self.recipe.to_json(),
            "classes": self.classes.to_json(),
            "version": self.version,
            "labelled": [row(s) for s in self.labelled],
            "pool": [row(s) for s in self.pool],
            "start": None if self.start is None else str(self.start),
            "threads": self.threads,
            "provenance": dict(self.provenance),
        }


def read_run(folder: Path) -> RunSpec:
    """The run of a folder. Raises NotFound without ``run.json``, BadInput naming what is wrong in it."""
    path = folder / RUN_NAME
    if not path.is_file():
        raise NotFound(str(path), "no such file", "give a run folder")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        start, threads = values.get("start"), values.get("threads")
        return RunSpec(
            seed=int(values["seed"]),
            recipe=Recipe.from_json(values["recipe"]),
            classes=ClassSet.from_json(values["classes"]),
            version=str(values["version"]),
            labelled=tuple(_sample(row, masked=True) for row in values["labelled"]),
            pool=tuple(_sample(row, masked=False) for row in values["pool"]),
            start=None if start is None else Path(start),
            threads=None if threads is None else int(threads),
            provenance=dict(values.get("provenance", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(str(path), f"not a run ({error!r})", "give seed, recipe, classes, labelled and pool") from error


def _sample(row: Mapping[str, Any], *, masked: bool) -> Sample:
    mask = Path(row["mask"]) if masked else None
    return Sample(int(row["tile"]), str(row["group"]), Path(row["image"]), mask)
