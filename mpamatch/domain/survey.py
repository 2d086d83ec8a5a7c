"""A pool seen in two stages: every region by what its row says, then the best tiles by what is costly to know.

Made for one ranking, which chooses among the rows that it gives (`candidates`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.candidates import Candidates
from mpamatch.domain.draws import uniform_draws
from mpamatch.domain.factors import Factors, Scales, scales_of, support
from mpamatch.domain.novelty import Embed, TileEmbeddings, Vectors, distances, unit
from mpamatch.domain.pool import Pool
from mpamatch.domain.ranked import ranges
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.selection import best_rows, shares_before
from mpamatch.domain.strategies import Strategy

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Hashes = NDArray[np.uint64]

# Of the products that novelty takes: some 2 s on one core.
_MOST_PRODUCTS: Final = 4e10
_LEAST_SEEDS: Final = 256
_EMBED_TILES: Final = 2_000


@dataclass(frozen=True)
class Labelled:
    """What has a label already: tiles (L,) to ask embeddings of, and hashes of their pictures."""

    tile_ids: Ints
    looks: Hashes

    @classmethod
    def nothing(cls) -> Labelled:
        """Nothing is labelled yet."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.uint64))


@dataclass(frozen=True)
class Scored:
    """``worth`` (R,) of each region; for each tile (T,) its ``best`` region (-1: none), and the sum of the others;
    ``vectors`` of the front and the row of each region there, -1 for none."""

    scales: Scales
    worth: Floats
    best: Ints
    rest: Floats
    vectors: Vectors | None
    vector_rows: Ints


@dataclass(frozen=True)
class Survey:
    """One ranking: what is given, and the columns made of it."""

    pool: Pool
    policy: RankingPolicy
    seed: int
    round_number: int
    embed: Embed | None
    labelled: Labelled

    @property
    def seen_looks(self) -> Hashes:
        """Hashes of labelled pictures; a tile that is asked for again is no copy of itself."""
        return self.labelled.looks[~np.isin(self.labelled.tile_ids, self.pool.tile_ids)]

    @property
    def per_head(self) -> int:
        """How many of a head are no audit tiles."""
        return max(self.policy.head_size - shares_before(self.policy.head_size, self.policy.audit_share), 1)

    def raw_factors(self) -> Factors:
        r = self.pool.regions
        names = ("margin", "impurity", "disagreement", "mean_confidence", "predicted_class", "bald")
        return Factors.of(
            area_px=r.area_px,
            uncertainty=r.uncertainty,
            perimeter_px=r.perimeter_px,
            policy=self.policy,
            **{name: getattr(r, name) for name in names},
        )

    def scored(self, raw: Factors, plan: Strategy, scales: Scales) -> Scored:
        """The best region of each tile, and what its others add up to."""
        worth = plan.worth(raw, self.policy, scales)
        starts, counts = self.pool.starts, self.pool.region_counts
        best, rest = np.full(len(self.pool), -1, np.int64), np.zeros(len(self.pool))
        has = counts > 0
        if has.any():
            firsts = starts[:-1][has]
            highest = np.maximum.reduceat(worth, firsts)
            at = np.flatnonzero(worth == np.repeat(highest, counts[has]))
            owner = np.searchsorted(firsts, at, side="right") - 1
            best[has] = at[np.r_[True, owner[1:] != owner[:-1]]]  # of equals the lowest id
            rest[has] = np.add.reduceat(worth, firsts) - highest
        return Scored(scales, worth, best, rest, None, np.full(len(raw), -1, np.int64))

    def looked_at(self, raw: Factors, plan: Strategy, train: Ints) -> tuple[Factors, Scored]:
        """Both stages: scored by the rows, and the best tiles again with what is costly to know."""
        scored = self.scored(raw, plan, scales_of(raw))
        if self.embed is None or len(train) == 0:
            return raw, scored
        front = self._front(raw, scored, plan, train)
        regions, vectors, distance = self._seen(front)
        known = np.full(len(raw), np.nan)
        known[regions] = distance
        raw = dataclasses.replace(raw, distance=known)
        scored = self.scored(raw, plan, scales_of(raw))
        # Of each tile only the region that stands for it is compared from here on.
        used = np.isin(regions, scored.best[front])
        scored.vector_rows[regions[used]] = np.arange(int(used.sum()))
        return raw, dataclasses.replace(scored, vectors=unit(vectors[used]))

    def _seen(self, front: Ints) -> tuple[Ints, NDArray[np.float16], Floats]:
        """Regions of these tiles that have an embedding, the embeddings, and how far each is from what is labelled.

        Some tiles at a time, and kept in half precision, as they are stored: all of them at once would fill memory.
        """
        assert self.embed is not None
        found: list[tuple[Ints, NDArray[np.float16], Floats]] = []
        labelled: Vectors | None = None
        for start in range(0, len(front), _EMBED_TILES):
            tiles = front[start : start + _EMBED_TILES]
            embedded = self.embed(self.pool.tile_ids[tiles]).checked(len(tiles))
            if labelled is None:
                regions_in_all = int(self.pool.region_counts[front].sum())
                labelled = self.labelled_vectors(regions_in_all)
            regions, rows = self._region_rows(tiles, embedded)
            vectors = embedded.vectors[rows]
            if vectors.size:  # else nothing is known of these, and not even of what size it would be
                found.append((regions, vectors.astype(np.float16), distances(vectors, labelled)))
        if not found:
            return np.zeros(0, np.int64), np.zeros((0, 1), np.float16), np.zeros(0)
        regions, halves, far = (np.concatenate(column) for column in zip(*found, strict=True))
        return regions, halves, far

    def _front(self, raw: Factors, scored: Scored, plan: Strategy, train: Ints) -> Ints:
        """The tiles that may be chosen: the best by score, and for each class the best by that class."""
        found = self.candidates(raw, scored, train)
        key, _, _ = self.ordered_by(found, scored, plan)
        front = best_rows(np.arange(len(found)), key, found.rest, self.policy.front_tiles)
        fewer = self.policy.window * self.per_head * self.policy.planned_heads
        for class_worth in () if found.class_worth is None else found.class_worth.T[1:]:
            front = np.union1d(front, best_rows(np.flatnonzero(class_worth > 0), class_worth, found.rest, fewer))
        return train[np.sort(front)]

    def _region_rows(self, tiles: Ints, found: TileEmbeddings) -> tuple[Ints, Ints]:
        """Regions that have an embedding, and its row. What was stored for other regions than these is not used."""
        counts, rows = self.pool.region_counts[tiles], np.diff(found.starts)
        fits = (rows == counts + 1) & (counts > 0)
        regions = ranges(self.pool.starts[:-1][tiles][fits], counts[fits])
        return regions, ranges(found.starts[:-1][fits] + 1, counts[fits])

    def labelled_vectors(self, rows: int) -> Vectors:
        """Embeddings of labelled tiles and their regions, to compare so many rows with; where there are too many, of
        tiles by chance, and an even choice of theirs. Of one that is asked for again only the whole tile's: its regions
        lie outside what is labelled."""
        assert self.embed is not None
        tiles = np.unique(self.labelled.tile_ids)
        draws = uniform_draws(self.seed, "labelled", 0, tiles)
        some = np.sort(tiles[np.argsort(draws, kind="stable")[: self.policy.seed_tiles]])
        found = self.embed(some).checked(len(some))
        lengths = np.diff(found.starts)
        again = np.repeat(np.isin(some, self.pool.tile_ids), lengths)
        whole = np.zeros(len(again), bool)
        whole[found.starts[:-1][lengths > 0]] = True
        vectors = found.vectors if not again.any() else found.vectors[whole | ~again]
        most = max(_LEAST_SEEDS, int(_MOST_PRODUCTS / max(rows * vectors.shape[1], 1)))
        if len(vectors) <= most:
            return vectors
        return vectors[np.linspace(0, len(vectors) - 1, most).astype(np.int64)]

    def candidates(self, raw: Factors, scored: Scored, tiles: Ints) -> Candidates:
        """Some tiles as rows, each standing for its best region."""
        pool, best = self.pool, scored.best[tiles]
        silent = best < 0
        if len(raw) == 0:
            factors = no_region(len(tiles))
        else:
            factors = blanked(raw.take(np.maximum(best, 0)), silent)
        rows = np.full(len(tiles), -1, np.int64)
        rows[~silent] = scored.vector_rows[best[~silent]]
        return Candidates.of(
            ids=pool.tile_ids[tiles],
            images=pool.images[tiles],
            groups=pool.groups[tiles],
            factors=factors,
            class_worth=self.class_worth(raw, tiles),
            predicted=self._predicted(tiles),
            foreground=pool.foreground[tiles],
            vectors=scored.vectors,
            vector_rows=rows,
            looks=pool.looks[tiles],
            rest=scored.rest[tiles],
            silent=silent,
        )

    def ordered_by(self, found: Candidates, scored: Scored, plan: Strategy) -> tuple[Floats, Floats, Floats]:
        """By what tiles follow that no head has chosen: a key, made of worth and noise."""
        worth = np.where(found.silent, 0.0, plan.worth(found.factors, self.policy, scored.scales))
        noise = plan.noise(found.ids, self.policy, self.seed, self.round_number)
        return np.where(found.silent, -np.inf, plan.key(worth, noise)), worth, noise

    def class_worth(self, raw: Factors, tiles: Ints) -> Floats | None:
        """For each tile the most that any of its regions has of each class, (N, C)."""
        scores = self.pool.regions.class_scores
        if scores is None:
            return None
        worth = np.nan_to_num(scores, nan=0.0) * support(raw.area_px, self.policy)[:, None].astype(np.float32)
        most = np.zeros((len(self.pool), scores.shape[1]), np.float32)
        has = self.pool.region_counts > 0
        if has.any():
            most[has] = np.maximum.reduceat(worth, self.pool.starts[:-1][has], axis=0)
        return most[tiles].astype(np.float64)

    def _predicted(self, tiles: Ints) -> Bools:
        """For each tile whether any of its regions is predicted as each class, (N, K)."""
        classes = self.pool.regions.predicted_class
        found = np.zeros((len(self.pool), int(classes.max(initial=0)) + 1), bool)
        found[np.repeat(np.arange(len(self.pool)), self.pool.region_counts), classes] = True
        return found[tiles]


def no_region(count: int) -> Factors:
    zero, unknown = np.zeros(count), np.full(count, np.nan)
    floats = {f.name: zero for f in dataclasses.fields(Factors)}
    unknowns = dict.fromkeys(("bald", "distance"), unknown)
    return Factors(
        **{
            **floats,
            **unknowns,
            "area_px": np.ones(count),
            "true_error": zero,
            "predicted_class": np.zeros(count, np.int64),
        }
    )


def blanked(factors: Factors, silent: Bools) -> Factors:
    """The same, with nothing to say for silent rows."""
    nothing = no_region(len(factors))
    columns = {f.name: getattr(factors, f.name) for f in dataclasses.fields(Factors)}
    return Factors(**{n: np.where(silent, getattr(nothing, n), column) for n, column in columns.items()})
