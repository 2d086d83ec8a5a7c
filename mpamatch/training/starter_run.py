"""How the starter is made: EBHI-Seg's training list and drawn tissue, by the plan that lies beside its weights.

Only data that may be shipped goes in: EBHI-Seg is CC BY 4.0 and drawn tissue is our own; a published validation list
is never read for training, and no other set is. The same plan gives the same run folder, on any machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mpamatch.datasets import Dataset, DatasetItem, open_dataset, phantom
from mpamatch.domain.classes import ClassSet
from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput
from mpamatch.files.rasters import encode_raster
from mpamatch.files.starter import PLAN_NAME, starter_folder
from mpamatch.network.weights import ModelConfig, WorkingScale, load_model, read_config, save_model
from mpamatch.training.batches import Sample
from mpamatch.training.run import Event
from mpamatch.training.run_folder import train_run
from mpamatch.training.run_spec import RUN_NAME, RunSpec

CREDIT = "EBHI-Seg (Shi et al. 2023, doi:10.3389/fmed.2023.1114673), CC BY 4.0; drawn tissue of mpamatch"


@dataclass(frozen=True)
class StarterPlan:
    """Seed, recipe, and how much drawn tissue goes with the published images."""

    version: str
    seed: int
    recipe: Recipe
    drawn: Mapping[str, int]


def read_plan(path: Path | None = None) -> StarterPlan:
    """The plan that the shipped starter was made by, or another. Raises BadInput."""
    path = path or starter_folder() / PLAN_NAME
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        drawn = {name: int(values["drawn"][name]) for name in ("tiles", "groups", "size_px", "seed")}
        recipe = Recipe.from_json(values["recipe"])
        return StarterPlan(str(values["version"]), int(values["seed"]), recipe, drawn)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(str(path), f"is no plan of a starter ({error!r})", "see mpamatch/starter/plan.json") from error


def prepare(folder: Path, ebhi_root: Path, plan: StarterPlan, *, threads: int, leave_out: int | None = None) -> RunSpec:
    """Make ``folder`` the run folder of a plan. ``leave_out`` n keeps the n-th fifth of its cases out.

    Leaving cases of the training list out is how a plan is tuned; the shipped starter leaves out none.
    """
    ebhi = open_dataset("ebhi", ebhi_root)
    drawn_root = folder / "drawn"
    phantom.write_folder(drawn_root, variety="wide", **plan.drawn)
    drawn = open_dataset("phantom", drawn_root)
    taken = [item for item in ebhi.items("train") if leave_out is None or item not in left_out(ebhi, leave_out)]
    sources: list[tuple[Dataset, list[DatasetItem], str]] = [
        (ebhi, taken, "ebhi"),
        (drawn, drawn.items("all"), "drawn") if plan.drawn["tiles"] else (drawn, [], "drawn"),
    ]
    spec = RunSpec(
        seed=plan.seed,
        recipe=plan.recipe,
        classes=ClassSet.from_names(phantom.CLASS_NAMES),
        version=plan.version,
        labelled=tuple(_samples(folder, sources)),
        pool=(),
        threads=threads,
        provenance={"data": CREDIT, "ebhi_images": len(taken), "drawn_tiles": plan.drawn["tiles"]},
    )
    (folder / RUN_NAME).write_text(json.dumps(spec.to_json(), indent=1) + "\n", encoding="utf-8")
    return spec


def left_out(ebhi: Dataset, turn: int) -> list[DatasetItem]:
    """About a fifth of the training list by whole cases, another fifth for each ``turn`` 0 to 4."""
    return [item for item in ebhi.items("train") if _fifth(item.group) == turn % 5]


def _fifth(group: str) -> int:
    return hashlib.sha256(group.encode()).digest()[0] % 5


def train_starter(
    folder: Path, *, clock: Callable[[], float], stop: Callable[[], bool], tell: Callable[[Event], None]
) -> Path:
    """Train a prepared folder and return its model, which works at the scale that fits each image's size."""
    result = train_run(folder, clock=clock, stop=stop, tell=tell)
    model = Path(result["model"])
    loaded = load_model(model)
    config: ModelConfig = replace(loaded.config, scale=WorkingScale(None))
    if read_config(model) != config:
        save_model(model, loaded.module, config)
    return model


def _samples(folder: Path, sources: list[tuple[Dataset, list[DatasetItem], str]]) -> list[Sample]:
    masks = folder / "masks"
    masks.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    for dataset, items, prefix in sources:
        for item in items:
            mask = masks / f"{hashlib.sha256(f'{prefix}/{item.name}'.encode()).hexdigest()[:16]}.png"
            mask.write_bytes(encode_raster(dataset.read_mask(item)))
            group = f"{prefix}/{item.group}"
            samples.append(Sample(len(samples), group, item.image.resolve(), mask.resolve()))
    return samples


def summary(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of one evaluation that a card quotes."""
    return {name: figures[name] for name in ("images", "mdice", "miou", "foreground_dice", "ece")}
