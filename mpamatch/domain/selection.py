"""A batch that is worth labelling together: spread out, without near copies, no image and no patient filling it.

Three rules of different hardness. What shares a pixel with something chosen is never chosen. When nothing else is left,
caps give way, and in the end near copies come in too, since an unfilled head helps nobody.

Deterministic: rows ascend by id, ties go to the larger score and then to the lower id. Sources: greedy k-center (Sener
and Savarese 2018); power noise and the share by class as in nnActive's ClaSP PE (Luth et al. 2026).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.candidates import Batch, Candidates, Picks
from mpamatch.domain.draws import uniform_draws
from mpamatch.domain.novelty import Vectors, cosines
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.errors import BadInput

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# How alike two rows count that have no embeddings: below what makes a near copy.
_SAME_IMAGE: Final = 0.9
_SAME_GROUP: Final = 0.5
# A window that is all near copies is followed by the next best one, but not for ever.
_MOST_WINDOWS: Final = 8
_TINY: Final = 1e-9
_LOOK_ROWS: Final = 256


def noise_beta(round_number: int, policy: RankingPolicy) -> float:
    """How sharply scores count in a round: evenly in its logarithm from the first planned round to the last.

    >>> [round(noise_beta(r, RankingPolicy(planned_rounds=5)), 6) for r in (0, 2, 4, 9)]
    [1.0, 10.0, 100.0, 100.0]
    """
    last = policy.planned_rounds - 1
    done = min(max(round_number, 0) / last, 1.0) if last > 0 else 0.0
    return float(policy.noise_beta_first ** (1 - done) * policy.noise_beta_last**done)


def gumbel_noise(ids: Ints, policy: RankingPolicy, seed: int, round_number: int) -> Floats:
    """Gumbel(0, 1 / beta) per id: the best of log s + noise are a draw in proportion to s to the power of beta."""
    drawn: Floats = -np.log(-np.log(uniform_draws(seed, "noise", round_number, ids)))
    return drawn / noise_beta(round_number, policy)


def noisy_key(score: Floats, noise: Floats) -> Floats:
    """log s + noise: what rows are sorted by."""
    return np.log(np.maximum(score, _TINY)) + noise


def shares_of_batch(size: int, *, exploration: float, by_class: float) -> tuple[int, int, int]:
    """How many of a batch are drawn by chance, by class, and by score; together ``size``.

    >>> shares_of_batch(50, exploration=0.1, by_class=0.66)
    (5, 30, 15)
    """
    by_chance = shares_before(size, exploration)
    classes = round(by_class * (size - by_chance))
    return by_chance, classes, size - by_chance - classes


def shares_before(places: int, share: float) -> int:
    """How many of so many places a share makes, cut to whole ones.

    >>> shares_before(50, 0.1), shares_before(49, 0.1)
    (5, 4)
    """
    return math.floor(places * share + _TINY)


def quotas(size: int, classes: Sequence[int]) -> Mapping[int, int]:
    """``size`` split over classes as evenly as may be, the first ones get what is left over.

    >>> quotas(5, [1, 2])
    {1: 3, 2: 2}
    """
    return {c: size // len(classes) + (place < size % len(classes)) for place, c in enumerate(classes)}


def at_share_places(often: Picks, rarely: Picks) -> Picks:
    """Both in their own orders, the second kind evenly among the first: every tenth where it is a tenth."""
    size = len(often) + len(rarely)
    due = -(-np.arange(1, len(rarely) + 1) * size // max(len(rarely), 1)) - 1
    places = np.empty(size, np.int64)
    rare = np.zeros(size, bool)
    rare[due] = True
    places[rare] = len(often) + np.arange(len(rarely))
    places[~rare] = np.arange(len(often))
    return often.and_then(rarely).in_order(places)


def best_rows(rows: Ints, key: Floats, rest: Floats, count: int) -> Ints:
    """The ``count`` of some ascending rows with the largest ``key``, then ``rest``, then the lowest row, in order."""
    if 0 < count < len(rows):
        least = np.partition(key[rows], len(rows) - count)[len(rows) - count]
        rows = rows[key[rows] >= least]
    order = np.lexsort((rows, -rest[rows], -key[rows]))
    return rows[order[: max(count, 0)]]


class Chooser:
    """Who may still be chosen for one batch: it changes with every row that is taken."""

    def __init__(self, found: Candidates, batch: Batch) -> None:
        self.found, self.policy, self.batch = found, batch.policy, batch
        self.open: Bools = np.ones(len(found), bool) if batch.closed is None else ~batch.closed
        self._near: Bools = np.zeros(len(found), bool)
        self._images = _Counts(found.images, self.policy.image_cap)
        self._groups = _Counts(found.groups, max(1, math.ceil(self.policy.group_share * batch.size - _TINY)))
        self._chosen: list[int] = []
        if batch.taken is not None:
            self._close_overlapping_taken()

    def take(self, row: int) -> None:
        """Choose one row, whatever the caps say."""
        self.open[row] = False
        self._images.add(row)
        self._groups.add(row)
        self._chosen.append(row)
        if self.found.boxes is not None:
            self._close_overlapping(int(self.found.images[row]), self.found.boxes[row])

    def spread(self, key: Floats, count: int, *, capped: bool = True) -> list[int]:
        """At most ``count`` rows: of the best few times as many, each time the one farthest from all that is chosen
        or labelled, within caps and without near copies. Rows whose key is -inf are never among them."""
        taken: list[int] = []
        for _ in range(_MOST_WINDOWS):
            wanted = count - len(taken)
            rows = np.flatnonzero(self.open & ~self._near & np.isfinite(key) & (self._within_caps() | (not capped)))
            if wanted < 1 or rows.size == 0:
                break
            window = best_rows(rows, key, self.found.rest, self.policy.window * count)
            taken += self._farthest(window, wanted, capped=capped)
        return taken

    def fill(self, key: Floats, count: int) -> list[int]:
        """The next best ``count`` rows, near copies too: within the caps first, then whatever is left."""
        taken: list[int] = []
        while len(taken) < count:
            rows = np.flatnonzero(self.open & self._within_caps())
            if rows.size == 0:
                break
            for row in best_rows(rows, key, self.found.rest, count - len(taken)):
                if self.open[row] and self._images.has_room(row) and self._groups.has_room(row):
                    self.take(int(row))
                    taken.append(int(row))
        while len(taken) < count and self.open.any():
            for row in best_rows(np.flatnonzero(self.open), key, self.found.rest, count - len(taken)):
                if self.open[row]:
                    self.take(int(row))
                    taken.append(int(row))
        return taken

    def _farthest(self, window: Ints, count: int, *, capped: bool) -> list[int]:
        nearest, near = self._nearest(window)
        taken: list[int] = []
        while len(taken) < count:
            allowed = self.open[window] & ~near & (self._within_caps(window) | (not capped))
            if not allowed.any():
                break
            row = int(window[np.argmin(np.where(allowed, nearest, np.inf))])
            self.take(row)
            taken.append(row)
            likeness, copies = self._like(window, np.array([row]))
            nearest, near = np.maximum(nearest, likeness), near | copies
        self._near[window[near]] = True
        return taken

    def _nearest(self, window: Ints) -> tuple[Floats, Bools]:
        """How alike each row is to what is labelled, queued or chosen, and whether it is a near copy of any of it."""
        distance = self.found.factors.distance[window]
        nearest = np.where(np.isnan(distance), -1.0, 1.0 - distance)
        if self.batch.seeds is not None:
            rows, known = self._vectors_of(window)
            nearest[known] = np.maximum(nearest[known], cosines(rows, self.batch.seeds))
        near = nearest > self.policy.duplicate_cosine
        if self.batch.seen_looks is not None:
            near |= self._same_look(window, self.batch.seen_looks)
        likeness, copies = self._like(window, np.array(self._chosen, np.int64))
        return np.maximum(nearest, likeness), near | copies

    def _like(self, window: Ints, rows: Ints) -> tuple[Floats, Bools]:
        """How alike each row of a window is to the most similar of some rows, and whether it is a near copy of one.

        By cosine where both have an embedding, else by whether they share image or group.
        """
        mine, known = self._vectors_of(window)
        theirs, theirs_known = self._vectors_of(rows)
        likeness = self._sharing(window, rows[~theirs_known])
        likeness[~known] = self._sharing(window[~known], rows)
        likeness[known] = np.maximum(likeness[known], cosines(mine, theirs))
        return likeness, (likeness > self.policy.duplicate_cosine) | self._same_look(window, self.found.looks[rows])

    def _sharing(self, window: Ints, rows: Ints) -> Floats:
        images, groups = self.found.images, self.found.groups
        if rows.size == 0:
            return np.full(len(window), -1.0)
        likeness = np.where(np.isin(groups[window], groups[rows]), _SAME_GROUP, 0.0)
        likeness[np.isin(images[window], images[rows])] = _SAME_IMAGE
        return likeness

    def _vectors_of(self, window: Ints) -> tuple[Vectors, Bools]:
        """The embeddings of those of some rows that have one, and which these are."""
        places = self.found.vector_rows[window]
        known = places >= 0
        vectors = self.found.vectors
        if vectors is None:
            return np.zeros((0, 1), np.float32), np.zeros(len(window), bool)
        return vectors[places[known]], known

    def _same_look(self, window: Ints, looks: NDArray[np.uint64]) -> Bools:
        """Whether the picture of each row looks like one of some pictures; a window at a time, not to fill memory."""
        mine, theirs = self.found.looks[window], looks[looks != 0]
        same = np.zeros(len(window), bool)
        for start in range(0, len(window), _LOOK_ROWS) if theirs.size else ():
            bits = np.bitwise_count(mine[start : start + _LOOK_ROWS, None] ^ theirs[None])
            same[start : start + _LOOK_ROWS] = (bits <= self.policy.duplicate_bits).any(axis=1)
        return same & (mine != 0)

    def _within_caps(self, rows: Ints | None = None) -> Bools:
        return self._images.room(rows) & self._groups.room(rows)

    def _close_overlapping_taken(self) -> None:
        taken = self.batch.taken
        if self.found.boxes is None or taken is None:
            raise BadInput("taken boxes", "cannot be kept clear of", "give the candidates' boxes too")
        for image, box in zip(taken.images, taken.boxes, strict=True):
            self._close_overlapping(int(image), box)

    def _close_overlapping(self, image: int, box: Ints) -> None:
        assert self.found.boxes is not None
        rows = np.flatnonzero(self.open & (self.found.images == image))
        x, y, width, height = self.found.boxes[rows].T
        apart = (x >= box[0] + box[2]) | (box[0] >= x + width) | (y >= box[1] + box[3]) | (box[1] >= y + height)
        self.open[rows[~apart]] = False


class _Counts:
    """How many of each image or group are chosen, and whether there is room for one more."""

    def __init__(self, labels: Ints, cap: int) -> None:
        _, self._codes = np.unique(labels, return_inverse=True)
        self._cap = cap
        self._chosen = np.zeros(int(self._codes.max(initial=-1)) + 1, np.int64)

    def add(self, row: int) -> None:
        self._chosen[self._codes[row]] += 1

    def has_room(self, row: int) -> bool:
        return bool(self._chosen[self._codes[row]] < self._cap)

    def room(self, rows: Ints | None = None) -> Bools:
        codes = self._codes if rows is None else self._codes[rows]
        return (self._chosen < self._cap)[codes]
