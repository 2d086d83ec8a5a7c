"""Orders that no trained model has a word in: audit tiles, and the first tiles of a project.

By chance in turns over groups and images; or, where an encoder has seen the tiles, group by group in proportion to
their sizes, first the tile that is most like the rest of its group (its typical one), then each time the one farthest
from all that is chosen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.draws import hash_draw, uniform_draws
from mpamatch.domain.novelty import Vectors, cosines, unit

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def in_turns(ids: Ints, images: Ints, groups: Ints, group_names: tuple[str, ...], seed: int, purpose: str) -> Ints:
    """Round-robin over groups, within a group over its images, otherwise by chance: a few tiles of every case early.

    Places in the given columns (T,), in order. A tile's chance hangs on its id, its image and its group's name alone.
    """
    chance = uniform_draws(seed, purpose, 0, ids)
    named = np.array([hash_draw(seed, purpose, name) for name in group_names], dtype=np.uint64)
    in_image = _position(np.lexsort((ids, chance, images)), images)
    image_chance = uniform_draws(seed, purpose + "-image", 0, images)
    in_group = _position(np.lexsort((ids, images, image_chance, in_image, groups)), groups)
    return np.lexsort((ids, groups, named[groups], in_group))


def _position(order: Ints, labels: Ints) -> Ints:
    """For each element, its place among those of its label when taken in ``order``, which is sorted by label first."""
    if len(order) == 0:
        return order
    ordered = labels[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(ordered)])
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return position


def typical_first(
    groups: Ints,
    images: Ints,
    vectors: Vectors,
    labelled: Vectors,
    turn: Ints,
    count: int,
    *,
    image_cap: int,
    group_cap: int,
    per_head: int,
    duplicate_cosine: float,
) -> Ints:
    """Places of ``count`` tiles in order, (N,) candidates with one unit embedding each.

    Which group is next: the one with most tiles for each that it has given already (Sainte-Lague), so that every group
    has its share early. Ties and the order of equals follow ``turn`` (N,), each tile's place in another order. Caps
    hold for each head of ``per_head`` and give way when nothing else is left; near copies come last.
    """
    picker = _Typical(groups, images, vectors, labelled, turn, duplicate_cosine)
    chosen: list[int] = []
    while len(chosen) < min(count, len(groups)):
        if len(chosen) % per_head == 0:
            picker.begin_head()
        at = picker.next_one(image_cap, group_cap)
        chosen.append(at)
    return np.array(chosen, np.int64)


class _Typical:
    def __init__(
        self, groups: Ints, images: Ints, vectors: Vectors, labelled: Vectors, turn: Ints, duplicate_cosine: float
    ) -> None:
        _, self.groups = np.unique(groups, return_inverse=True)
        _, self.images = np.unique(images, return_inverse=True)
        self.vectors, self.turn, self.duplicate_cosine = vectors, turn, duplicate_cosine
        self.open = np.ones(len(groups), bool)
        self.nearest = cosines(vectors, labelled)
        self.sizes = np.bincount(self.groups)
        self.given = np.zeros(len(self.sizes), np.int64)
        self.group_turn = np.full(len(self.sizes), len(turn))
        np.minimum.at(self.group_turn, self.groups, turn)
        self.begin_head()

    def begin_head(self) -> None:
        self.head_groups = np.zeros(len(self.sizes), np.int64)
        self.head_images = np.zeros(int(self.images.max(initial=0)) + 1, np.int64)

    def next_one(self, image_cap: int, group_cap: int) -> int:
        fresh = self.open & (self.nearest <= self.duplicate_cosine)
        capped = (self.head_images < image_cap)[self.images] & (self.head_groups < group_cap)[self.groups]
        allowed = next(one for one in (fresh & capped, self.open & capped, fresh, self.open) if one.any())
        at = self._of_group(self._next_group(allowed), allowed)
        self.open[at] = False
        self.given[self.groups[at]] += 1
        self.head_groups[self.groups[at]] += 1
        self.head_images[self.images[at]] += 1
        self.nearest = np.maximum(self.nearest, cosines(self.vectors, self.vectors[at][None]))
        return at

    def _next_group(self, allowed: NDArray[np.bool_]) -> int:
        there = np.bincount(self.groups[allowed], minlength=len(self.sizes)) > 0
        due = np.where(there, self.sizes / (2 * self.given + 1), -1.0)
        return int(np.lexsort((self.group_turn, -due))[0])

    def _of_group(self, group: int, allowed: NDArray[np.bool_]) -> int:
        rows = np.flatnonzero(allowed & (self.groups == group))
        if self.given[group] == 0:
            members = self.vectors[self.groups == group]
            worth = cosines(self.vectors[rows], unit(members.mean(axis=0, dtype=np.float64)[None]))
        else:
            worth = -self.nearest[rows]
        return int(rows[np.lexsort((self.turn[rows], -worth))[0]])
