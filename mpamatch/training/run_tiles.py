"""The tiles of a run as it can use them: those with labels, at which scale, what is kept back, and the pool.

A tile that cannot be read, or whose labels are none at the working scale, is left out and noted; the run goes on with
the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.classes import IGNORE
from mpamatch.errors import BadInput
from mpamatch.files.images import image_size, read_image
from mpamatch.network.weights import WorkingScale
from mpamatch.training.batches import Sample, TileReader, as_labels, read_class_ids
from mpamatch.training.holdout import Holdout, choose_holdout
from mpamatch.training.run_spec import RunSpec


@dataclass(frozen=True)
class RunTiles:
    """``labelled`` are all usable tiles with labels and ``learnt`` the classes in them; ``holdout`` says which of them
    are ``kept`` back, and ``trained`` are the others. ``pool`` is without those kept back; ``reader`` reads at
    ``scale``."""

    labelled: tuple[Sample, ...]
    learnt: tuple[int, ...]
    scale: WorkingScale
    reader: TileReader
    holdout: Holdout
    pool: tuple[Sample, ...]

    @property
    def trained(self) -> list[Sample]:
        return [s for s in self.labelled if s.tile not in self.holdout.kept]

    @property
    def kept(self) -> list[Sample]:
        return [s for s in self.labelled if s.tile in self.holdout.kept]


def choose_tiles(spec: RunSpec, notes: list[str]) -> RunTiles:
    """What of a run's tiles is used; a note is added for each labelled one that is not.

    Raises BadInput when none is left.
    """
    labelled, classes_of = _usable_labelled(spec, notes)
    reduction = spec.recipe.reduction_for(_long_side_px(labelled))
    scale = WorkingScale(reduction, _um_per_px(labelled, reduction))
    reader = TileReader(reduction, spec.classes.count, um_per_px=scale.um_per_px)
    labelled = _labelled_at_scale(labelled, reader, notes)
    classes_of = {s.tile: classes_of[s.tile] for s in labelled}
    learnt = sorted(frozenset().union(*classes_of.values()))
    holdout = choose_holdout(labelled, classes_of, spec.recipe.holdout_share)
    pool = tuple(s for s in spec.pool if s.tile not in holdout.kept)
    return RunTiles(tuple(labelled), tuple(learnt), scale, reader, holdout, pool)


def readable_audit(spec: RunSpec, notes: list[str]) -> list[Sample]:
    """The run's audit tiles that can be read; a note is added for each other."""
    readable = []
    for sample in spec.audit:
        assert sample.mask is not None
        try:
            _check_same_size(sample, read_class_ids(sample.mask, spec.classes.count))
            read_image(sample.image)  # its header says nothing of a file that was cut
            readable.append(sample)
        except BadInput as error:
            notes.append(f"audit tile {sample.tile} left out: {error}")
    return readable


def _usable_labelled(spec: RunSpec, notes: list[str]) -> tuple[list[Sample], dict[int, frozenset[int]]]:
    """Labelled tiles that hold at least one label, with their classes."""
    usable, classes_of, bad = [], {}, None
    for sample in spec.labelled:
        assert sample.mask is not None
        try:
            mask = read_class_ids(sample.mask, spec.classes.count)
            _check_same_size(sample, mask)
            ids = np.unique(mask)
        except BadInput as error:
            bad = error
            notes.append(f"tile {sample.tile} left out: {error}")
            continue
        present = frozenset(int(i) for i in ids if i != IGNORE)
        if present:
            usable.append(sample)
            classes_of[sample.tile] = present
    if not usable:
        raise bad or _nothing_labelled()
    return usable, classes_of


def _labelled_at_scale(labelled: Sequence[Sample], reader: TileReader, notes: list[str]) -> list[Sample]:
    """Those whose labels are still there at the working scale; thin ones fall between its pixels."""
    seen = []
    for sample in labelled:
        if (as_labels(reader.mask(sample)) != IGNORE).any():
            seen.append(sample)
        else:
            notes.append(f"tile {sample.tile} left out: its labels vanish at the working scale; label more")
    if not seen:
        raise _nothing_labelled()
    return seen


def _nothing_labelled() -> BadInput:
    return BadInput("run", "no labelled pixel in any tile", "label at least one tile")


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
