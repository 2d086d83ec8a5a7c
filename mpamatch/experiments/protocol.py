"""What an experiment's cells are: one training each, planned from the data set, the arms, the seeds and the folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from mpamatch.datasets import Dataset, DatasetItem, open_dataset
from mpamatch.datasets.protocols import group_folds
from mpamatch.domain.recipe import Recipe
from mpamatch.domain.splits import check_apart
from mpamatch.errors import BadInput
from mpamatch.experiments.arms import Arm, Experiment, arm_recipe
from mpamatch.experiments.plans import CellPlan
from mpamatch.experiments.regimes import labelled_count
from mpamatch.files.model_archive import weights_sha256

_FOLD_SEED = 0


@dataclass(frozen=True)
class Protocol:
    """What all cells of an experiment share. ``folds`` 0: scored on the validation list, else on parts of the train
    list that are left out, and the validation list is never opened. ``threads`` are those of one cell; published
    weights of encoders and texts are read from ``weights_dir``."""

    dataset: str
    root: Path
    profile: str
    seeds: int
    regime: str = "few"
    encoder: str | None = None
    labelled: int | None = None
    folds: int = 0
    start: Path | None = None
    knobs: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1
    keep_models: bool = False
    weights_dir: Path | None = None


@dataclass(frozen=True)
class Cell(CellPlan):
    """The plan of one training and its scoring. ``start_sha256`` is that of the weights that it begins with."""

    PLACES: ClassVar[tuple[str, ...]] = ("root", "start", "weights_dir")

    arm: str
    seed: int
    fold: int | None
    folds: int
    dataset: str
    root: Path
    regime: str
    labelled: int
    recipe: Recipe
    noise_words: int
    start: Path | None
    threads: int
    scored: bool
    keep_models: bool
    weights_dir: Path | None = None
    start_sha256: str | None = None

    @property
    def place(self) -> Path:
        """Its folder, below the experiment's."""
        folder = Path("cells") / self.arm / f"seed-{self.seed}"
        return folder if self.fold is None else folder / f"fold-{self.fold}"

    @property
    def words(self) -> str:
        return f"{self.arm} seed {self.seed}"

    @property
    def steps(self) -> int:
        return self.recipe.steps(warm=False)

    def with_steps(self, steps: int) -> Cell:
        return replace(self, recipe=Recipe.from_json({**self.recipe.to_json(), "steps_cold": steps}))

    def comparable(self) -> dict[str, Any]:
        """Without the steps, which may have been measured; a start by its weights, and by its place in older plans."""
        values = super().comparable()
        if (weights := values.pop("start_sha256")) is not None:
            values["start"] = weights
        del values["steps_cold"]
        return values


@dataclass(frozen=True)
class Division:
    """The images of a data set as the cells of one fold see them."""

    data: Dataset
    train: tuple[DatasetItem, ...]
    scored: tuple[DatasetItem, ...]


def plan_cells(experiment: Experiment, protocol: Protocol) -> list[Cell]:
    """Every cell, seed by seed, so that a stopped experiment holds whole comparisons. Raises BadInput.

    An arm that takes another's seconds has the other's steps for now; the runner gives it its own.
    """
    divisions = divisions_of(protocol)
    start_sha256 = None if protocol.start is None else weights_sha256(protocol.start)
    cells = []
    for seed in range(protocol.seeds):
        for fold, division in enumerate(divisions):
            cells += [
                _cell(arm, seed, fold if protocol.folds else None, division, experiment, protocol, start_sha256)
                for arm in experiment.arms
            ]
    return cells


def _cell(
    arm: Arm,
    seed: int,
    fold: int | None,
    division: Division,
    experiment: Experiment,
    protocol: Protocol,
    start_sha256: str | None,
) -> Cell:
    images = len(division.train)
    count = labelled_count(protocol.regime, protocol.dataset, images, asked=protocol.labelled, share=arm.labelled_share)
    return Cell(
        arm=arm.name,
        seed=seed,
        fold=fold,
        folds=protocol.folds,
        dataset=protocol.dataset,
        root=protocol.root.resolve(),
        regime=protocol.regime,
        labelled=count,
        recipe=arm_recipe(arm, protocol.profile, encoder=protocol.encoder, knobs=protocol.knobs, train_images=images),
        noise_words=arm.noise_words,
        start=None if protocol.start is None else protocol.start.resolve(),
        threads=protocol.threads,
        scored=experiment.scored,
        keep_models=protocol.keep_models,
        weights_dir=None if protocol.weights_dir is None else protocol.weights_dir.resolve(),
        start_sha256=start_sha256,
    )


def divisions_of(protocol: Protocol) -> list[Division]:
    """One division of the data set, or one for each fold."""
    data = open_dataset(protocol.dataset, protocol.root)
    return [divide(data, fold, protocol.folds) for fold in (range(protocol.folds) if protocol.folds else [None])]


def divide(data: Dataset, fold: int | None, folds: int) -> Division:
    """Train images and those to score: the published lists, or the train list without the groups of a fold.

    Only images with a mask count. Raises BadInput when a side would be empty, or both hold images of one patient.
    """
    train = _masked(data, data.items("train"))
    if fold is None:
        scored = _masked(data, data.items("val"))
    else:
        left_out = group_folds(train, folds, _FOLD_SEED)[fold]
        scored = [item for item in train if item.name in left_out]
        train = [item for item in train if item.name not in left_out]
    if not train or not scored:
        side = "train on" if not train else "score"
        raise BadInput(data.name, f"has no image with a mask to {side}", "check its lists, or give fewer folds")
    check_apart(*([(item.name, item.group) for item in side] for side in (train, scored)))
    return Division(data, tuple(train), tuple(scored))


def _masked(data: Dataset, items: Sequence[DatasetItem]) -> list[DatasetItem]:
    draws = getattr(data, "draw", None) is not None  # drawn tissue knows the mask of every item
    return [item for item in items if draws or item.mask is not None]
