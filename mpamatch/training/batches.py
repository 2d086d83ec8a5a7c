"""The two streams of a run: which tiles a step sees, and the views it gets of them.

A batch is a function of (seed, step) alone, so nothing of a stream needs saving. Tiles are read once, shrunk to the
working scale and kept in memory up to a budget. Any number of pool tiles will do, none included.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mpamatch.domain.classes import ABSTAIN, IGNORE
from mpamatch.domain.recipe import Recipe
from mpamatch.errors import BadInput
from mpamatch.files.images import read_image
from mpamatch.files.rasters import decode_raster
from mpamatch.network.pixels import normalise, reduce_image, reduce_mask
from mpamatch.network.weights import WorkingScale
from mpamatch.training.views import MixBox, Tile, View, cutmix_box, photometric, weak_view

_CACHE_BYTES = 512 * 1024**2

# What a random draw is for: the second number of its seed, so that no two purposes share a stream.
_LABELLED_ORDER, _POOL_ORDER, _LABELLED_VIEW, _POOL_VIEW, _STRONG_VIEW, _MIX = range(6)


@dataclass(frozen=True)
class Sample:
    """A tile of the run: its id, its group, its image file and, when labelled, its mask file; its scale where known."""

    tile: int
    group: str
    image: Path
    mask: Path | None = None
    um_per_px: float | None = None


class TileReader:
    """Reads samples at the working scale and keeps the last used within ``budget_bytes``."""

    def __init__(
        self,
        reduction: float,
        class_count: int,
        budget_bytes: int = _CACHE_BYTES,
        *,
        um_per_px: float | None = None,
    ) -> None:
        """Samples shrink by ``reduction``; to ``um_per_px`` where both that and their own are known."""
        self._reduction, self._scale = reduction, WorkingScale(reduction, um_per_px)
        self._class_count = class_count
        self._budget_bytes = budget_bytes
        self._kept: OrderedDict[tuple[Path, Path | None], Tile] = OrderedDict()
        self._kept_bytes = 0

    def read(self, sample: Sample) -> Tile:
        """The tile's pixels and mask (255 throughout when it has none). Raises BadInput naming the file."""
        key = (sample.image, sample.mask)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        tile = self._load(sample)
        self._kept[key] = tile
        self._kept_bytes += tile.image.nbytes + tile.mask.nbytes
        while self._kept_bytes > self._budget_bytes and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._kept_bytes -= dropped.image.nbytes + dropped.mask.nbytes
        return tile

    def mask(self, sample: Sample) -> NDArray[np.uint8]:
        """The mask of a labelled sample at the working scale, without its image. Raises BadInput naming the file."""
        assert sample.mask is not None
        mask = read_class_ids(sample.mask, self._class_count, abstentions=True)
        return reduce_mask(mask, self._reduction_of(sample))

    def _load(self, sample: Sample) -> Tile:
        image = read_image(sample.image)
        mask: NDArray[np.uint8] = np.full(image.shape[:2], IGNORE, np.uint8)
        if sample.mask is not None:
            mask = read_class_ids(sample.mask, self._class_count, abstentions=True)
            if mask.shape != image.shape[:2]:
                size = f"{mask.shape[1]} x {mask.shape[0]} px, its image {image.shape[1]} x {image.shape[0]} px"
                raise BadInput(str(sample.mask), size, "give a mask of the image's size")
        reduction = self._reduction_of(sample)
        return Tile(reduce_image(image, reduction), reduce_mask(mask, reduction))

    def _reduction_of(self, sample: Sample) -> float:
        return self._scale.reduction_at(sample.um_per_px) or self._reduction


def read_class_ids(path: Path, class_count: int, *, abstentions: bool = False) -> NDArray[np.uint8]:
    """A mask file of a run: 8-bit grey PNG of class ids, 254 and 255, taken literally. Raises BadInput naming the file.

    254, where a person could not tell, reads as 255 unless ``abstentions`` are asked for.
    """
    try:
        mask = decode_raster(path.read_bytes())
    except OSError as error:
        raise BadInput(str(path), "cannot be read", "check that the file is still there") from error
    except BadInput as error:
        raise BadInput(str(path), error.problem, "store masks as 8-bit grey PNG of class ids") from error
    worst = int(mask[mask < ABSTAIN].max(initial=0))
    if worst >= class_count:
        raise BadInput(str(path), f"holds class id {worst}", f"ids below {class_count}, or {IGNORE} for none")
    return mask if abstentions else as_labels(mask)


Mix = tuple[int, MixBox]
"""The slot of a CutMix partner, and the box taken from it."""


@dataclass(frozen=True)
class LabelledBatch:
    """``images`` float (B, 3, S, S) normalised, ``masks`` int64 (B, S, S) with 255 for no supervision."""

    images: Tensor
    masks: Tensor


@dataclass(frozen=True)
class PoolBatch:
    """Views of B pool tiles, and of the CutMix partners that are not among them.

    ``weak`` float (N, 3, S, S), N >= B; ``strong`` one such tensor of B views per strong view, already mixed;
    ``labels`` int64 (N, S, S), the tile's own mask where it has one (255 elsewhere); ``valid`` bool (N, S, S)
    is False beyond the tile and where a person could not tell;
    ``mixes`` one row per strong view, one (partner, box) or None per tile, to mix the targets alike.
    """

    weak: Tensor
    strong: tuple[Tensor, ...]
    labels: Tensor
    valid: Tensor
    mixes: tuple[tuple[Mix | None, ...], ...]

    @property
    def size(self) -> int:
        return len(self.strong[0])

    def mixed(self, target: Tensor, view: int) -> Tensor:
        """A target (N, S, S) of the weak views as the strong view ``view`` shows it, (B, S, S)."""
        result = target[: self.size].clone()
        for place, mix in enumerate(self.mixes[view]):
            if mix is not None:
                partner, box = mix
                area = (slice(box.top, box.bottom), slice(box.left, box.right))
                result[(place, *area)] = target[(partner, *area)]
        return result


class Streams:
    """The labelled and the pool stream of a run; holds no position."""

    def __init__(
        self,
        labelled: Sequence[Sample],
        pool: Sequence[Sample],
        *,
        recipe: Recipe,
        reader: TileReader,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        seed: int,
    ) -> None:
        self._labelled = tuple(sorted(labelled, key=lambda s: s.tile))
        self._pool = tuple(sorted(pool, key=lambda s: s.tile))
        self._recipe, self._reader, self._seed = recipe, reader, seed
        self._mean, self._std = mean, std
        self._fill = np.rint(np.array(mean) * 255).astype(np.uint8)
        self._orders: dict[tuple[int, int], NDArray[np.int64]] = {}
        self.unreadable: dict[int, BadInput] = {}
        self._masks: Mapping[int, Path | None] = {s.tile: s.mask for s in labelled} if recipe.labels_override else {}

    @property
    def labelled_tiles(self) -> int:
        """How many labelled tiles the stream shows."""
        return len(self._labelled)

    def labelled_classes(self) -> frozenset[int]:
        """The classes with a label in any labelled tile at the working scale; reads every mask."""
        found = (np.unique(as_labels(self._reader.mask(sample))) for sample in self._labelled)
        return frozenset(int(i) for ids in found for i in ids if i != IGNORE)

    def labelled_batch(self, step: int, slots: range | None = None) -> LabelledBatch:
        """The labelled views of a step, light photometry included; of some ``slots`` (at least one) or of all."""
        views = []
        chosen = self._chosen(self._labelled, step, self._recipe.labelled_batch, _LABELLED_ORDER)
        for slot in range(len(chosen)) if slots is None else slots:
            sample = chosen[slot]
            rng = self._rng(_LABELLED_VIEW, step, slot, sample.tile)
            view = weak_view(self._reader.read(sample), self._recipe, rng, self._fill, supervised=True)
            image = photometric(view.image, self._recipe.labelled_photometry, rng)
            views.append(View(image, view.mask, view.pad))
        return LabelledBatch(self._tensor(views), _stacked([as_labels(v.mask) for v in views]).long())

    def pool_batch(self, step: int, slots: range | None = None) -> PoolBatch:
        """The weak and strong views of a step's pool tiles; of some ``slots`` (at least one) or of all.

        The pool must not be empty. Tiles are read for all slots, since a tile's CutMix partner may be any of them.
        """
        recipe = self._recipe
        slots = range(recipe.unlabelled_batch) if slots is None else slots
        samples = [self._readable(s) for s in self._chosen(self._pool, step, self._pool_count, _POOL_ORDER)]
        partners = {slot: _partner(samples, slot) for slot in slots}
        rows = [*slots, *sorted({p for p in partners.values() if p is not None} - set(slots))]
        weak = {}
        for slot in rows:
            rng = self._rng(_POOL_VIEW, step, slot, samples[slot].tile)
            weak[slot] = weak_view(self._reader.read(samples[slot]), recipe, rng, self._fill, supervised=False)
        strong, mixes = [], []
        for view in range(recipe.views_per_tile):
            images, mix = self._strong_view(weak, partners, [s.tile for s in samples], step, view)
            strong.append(images)
            mixes.append(mix)
        return PoolBatch(
            weak=self._tensor(list(weak.values())),
            strong=tuple(strong),
            labels=_stacked([as_labels(v.mask) for v in weak.values()]).long(),
            valid=~_stacked([v.pad | (v.mask == ABSTAIN) for v in weak.values()]),
            mixes=tuple(mixes),
        )

    def pool_tiles(self, first_step: int, last_step: int) -> int:
        """How many different pool tiles the steps from ``first_step`` up to ``last_step`` (not included) show."""
        if not self._pool or last_step <= first_step:
            return 0
        if (last_step - first_step) * self._pool_count >= 2 * len(self._pool):
            return len(self._pool) - len(self.unreadable)
        shown = (self._chosen(self._pool, step, self._pool_count, _POOL_ORDER) for step in range(first_step, last_step))
        return len({sample.tile for samples in shown for sample in samples} - set(self.unreadable))

    @property
    def _pool_count(self) -> int:
        """Pool tiles a step reads: at batch 1 a second one, as partner for CutMix."""
        batch = self._recipe.unlabelled_batch
        return 2 if batch == 1 and self._recipe.cutmix_p > 0 and len(self._pool) > 1 else batch

    def _strong_view(
        self, weak: Mapping[int, View], partners: Mapping[int, int | None], tiles: Sequence[int], step: int, view: int
    ) -> tuple[Tensor, tuple[Mix | None, ...]]:
        """One strong view of the slots in ``partners``; ``weak`` has their views first, then their partners'."""
        images, rows = [], {slot: row for row, slot in enumerate(weak)}
        for slot, w in weak.items():
            rng = self._rng(_STRONG_VIEW, step, slot, tiles[slot], view)
            images.append(View(photometric(w.image, self._recipe.unlabelled_photometry, rng), w.mask, w.pad))
        plain = self._tensor(images)
        mixed = plain[: len(partners)].clone(memory_format=torch.preserve_format)
        mixes: list[Mix | None] = []
        for slot, partner in partners.items():
            box = cutmix_box(self._recipe, self._rng(_MIX, step, slot, view))
            if partner is None or box is None:
                mixes.append(None)
                continue
            area = (slice(None), slice(box.top, box.bottom), slice(box.left, box.right))
            mixed[(rows[slot], *area)] = plain[(rows[partner], *area)]
            mixes.append((rows[partner], box))
        return mixed, tuple(mixes)

    def _readable(self, sample: Sample) -> Sample:
        """The sample, or the next of the pool that can be read; one bad file does not end a run.

        A pool tile that is also labelled shows its labels: they replace pseudo-labels there.
        """
        first = self._pool.index(sample) if sample.tile in self.unreadable else -1
        for ahead in range(len(self._pool)):
            candidate = sample if ahead == 0 else self._pool[(first + ahead) % len(self._pool)]
            candidate = replace(candidate, mask=self._masks.get(candidate.tile))
            if candidate.tile in self.unreadable:
                continue
            try:
                self._reader.read(candidate)
                return candidate
            except BadInput as error:
                self.unreadable[candidate.tile] = error
                first = self._pool.index(sample)
        raise BadInput("pool", "no tile can be read", "check that the image files are still there")

    def _chosen(self, samples: Sequence[Sample], step: int, count: int, purpose: int) -> list[Sample]:
        """``count`` samples of a step: every epoch is a fresh permutation, read on without a gap."""
        chosen = []
        for index in range(step * count, (step + 1) * count):
            epoch, place = divmod(index, len(samples))
            chosen.append(samples[int(self._order(purpose, epoch, len(samples))[place])])
        return chosen

    def _order(self, purpose: int, epoch: int, count: int) -> NDArray[np.int64]:
        if (purpose, epoch) not in self._orders:
            self._orders = {
                key: order for key, order in self._orders.items() if key[0] != purpose or key[1] == epoch - 1
            }
            self._orders[purpose, epoch] = self._rng(purpose, epoch).permutation(count)
        return self._orders[purpose, epoch]

    def _rng(self, purpose: int, *which: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, purpose, *which])

    def _tensor(self, views: Sequence[View]) -> Tensor:
        x = normalise(np.stack([v.image for v in views]), self._mean, self._std)
        pads = _stacked([v.pad for v in views])
        return x.masked_fill(pads[:, None], 0.0) if bool(pads.any()) else x


def as_labels(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask in which abstentions are no labels."""
    return np.where(mask == ABSTAIN, np.uint8(IGNORE), mask)


def _partner(samples: Sequence[Sample], slot: int) -> int | None:
    """The next slot that shows another tile; a tile is never mixed with itself."""
    for ahead in range(1, len(samples)):
        other = (slot + ahead) % len(samples)
        if samples[other].tile != samples[slot].tile:
            return other
    return None


def _stacked(arrays: Sequence[NDArray[np.uint8] | NDArray[np.bool_]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays))
