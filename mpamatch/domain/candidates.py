"""What a strategy chooses from, what it is asked for, and what it answers: the one signature of all strategies.

A candidate is one row: a region, or a tile that stands for its best region. Rows are told apart by ``ids``, which the
answer names again, so neither the order of the rows nor what else is among them changes which chance a row has.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.factors import Factors, Scales
from mpamatch.domain.novelty import Vectors, unit
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.errors import BadInput

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Hashes = NDArray[np.uint64]

Stratum = Literal["class", "score", "exploration", "audit", "cold"]


@dataclass(frozen=True)
class Candidates:
    """N rows ascending by ``ids``; ``images`` and ``groups`` are numbers, (N,) each.

    ``class_worth`` (N, C): what speaks for a row as one of each class, mean(entropy x p) times its support, or None.
    ``predicted`` (N, K): whether a row, or any region of its tile, is predicted as each class. Worth does not tell:
    every class has a little of every pixel.
    ``foreground``: the share of the tile that is predicted as such, nan where unknown. ``vectors`` (M, D) unit rows
    and ``vector_rows`` (N,) the row of each candidate there, -1 for none. ``looks``: hashes of the tiles' pictures, 0
    for none. ``boxes`` (N, 4) x, y, width, height in the image, where rows may overlap. ``rest``: what decides between
    equal scores. ``silent``: rows that nothing speaks for; they come last.
    """

    ids: Ints
    images: Ints
    groups: Ints
    factors: Factors
    class_worth: Floats | None
    predicted: Bools
    foreground: Floats
    vectors: Vectors | None
    vector_rows: Ints
    looks: Hashes
    boxes: Ints | None
    rest: Floats
    silent: Bools

    @classmethod
    def of(
        cls,
        *,
        ids: Ints,
        images: Ints,
        groups: Ints,
        factors: Factors,
        class_worth: Floats | None = None,
        predicted: Bools | None = None,
        foreground: Floats | None = None,
        vectors: NDArray[np.floating] | None = None,
        vector_rows: Ints | None = None,
        looks: Hashes | None = None,
        boxes: Ints | None = None,
        rest: Floats | None = None,
        silent: Bools | None = None,
    ) -> Candidates:
        """From rows in any order. ``vectors`` without ``vector_rows``: one for each row; without ``predicted``, the
        factors' class counts alone. Raises BadInput."""
        given = np.asarray(ids, np.int64)
        count = len(given)
        order = np.argsort(given, kind="stable")
        if (np.diff(given[order]) == 0).any():
            raise BadInput("candidates", "hold an id twice", "give each row once")
        if vectors is not None and vector_rows is None:
            vector_rows = np.arange(count)
        columns = {
            "images": images,
            "groups": groups,
            "predicted": _only(factors.predicted_class) if predicted is None else predicted,
            "foreground": np.full(count, np.nan) if foreground is None else foreground,
            "vector_rows": np.full(count, -1, np.int64) if vector_rows is None else vector_rows,
            "looks": np.zeros(count, np.uint64) if looks is None else looks,
            "rest": np.zeros(count) if rest is None else rest,
            "silent": np.zeros(count, bool) if silent is None else silent,
        }
        wrong = [name for name, column in columns.items() if len(column) != count]
        if wrong or len(factors) != count:
            raise BadInput("candidates", f"{[*wrong, 'factors'][0]} is not as long as ids", "give one value for each")
        return cls(
            ids=given[order],
            factors=factors.take(order),
            class_worth=None if class_worth is None else np.asarray(class_worth, np.float64)[order],
            vectors=None if vectors is None else unit(vectors),
            boxes=None if boxes is None else np.asarray(boxes, np.int64)[order],
            **{name: np.asarray(column)[order] for name, column in columns.items()},  # type: ignore[arg-type]
        )

    def __len__(self) -> int:
        return len(self.ids)


def _only(classes: Ints) -> Bools:
    """Rows of which each has one class."""
    return np.asarray(classes)[:, None] == np.arange(int(np.max(classes, initial=0)) + 1)


@dataclass(frozen=True)
class Taken:
    """Boxes (K, 4) in images (K,) that are labelled or queued already: no candidate that shares a pixel is chosen."""

    images: Ints
    boxes: Ints


@dataclass(frozen=True)
class Batch:
    """What is asked for: ``size`` rows for one head, with the knobs, and chance from (``seed``, ``round_number``).

    ``place`` counts the heads of a round. ``scales`` are those of the pool; None takes those of the candidates.
    ``closed`` (N,) rows are left out, in the order of the candidates. ``seeds`` are embeddings of what was queued just
    before (what is labelled is in the factors' ``distance``), ``seen_looks`` hashes of what is labelled or queued.
    """

    size: int
    policy: RankingPolicy
    seed: int
    round_number: int
    place: int = 0
    scales: Scales | None = None
    closed: Bools | None = None
    seeds: Vectors | None = None
    seen_looks: Hashes | None = None
    taken: Taken | None = None


@dataclass(frozen=True)
class Picks:
    """Up to ``size`` rows in the order in which to ask for them, (K,) each.

    ``score`` is what the strategy sees in a row, ``noise`` the chance that was added to it (to its logarithm, where
    the strategy is `mpamatch`), ``propensity`` the chance that a draw puts the row here; 1 where the score decides.
    ``classes`` is the class for which a row was chosen, -1 for none.
    """

    ids: Ints
    score: Floats
    noise: Floats
    strata: tuple[Stratum, ...]
    propensity: Floats
    classes: Ints

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(
        cls,
        found: Candidates,
        rows: Ints,
        stratum: Stratum,
        *,
        score: Floats | None = None,
        noise: Floats | None = None,
        propensity: Floats | float = 1.0,
    ) -> Picks:
        """All of one stratum; ``score`` and ``noise`` are columns of the candidates."""
        zero = np.zeros(len(rows))
        return cls(
            ids=found.ids[rows],
            score=zero if score is None else score[rows],
            noise=zero if noise is None else noise[rows],
            strata=(stratum,) * len(rows),
            propensity=np.broadcast_to(np.asarray(propensity, np.float64), len(rows)).copy(),
            classes=np.full(len(rows), -1, np.int64),
        )

    def in_order(self, places: Ints) -> Picks:
        """The same rows, those at ``places`` in that order."""
        strata = tuple(self.strata[at] for at in places)
        columns = {f.name: getattr(self, f.name)[places] for f in dataclasses.fields(self) if f.name != "strata"}
        return Picks(strata=strata, **columns)

    def and_then(self, other: Picks) -> Picks:
        """These, and after them the others."""
        columns = {
            f.name: np.concatenate([getattr(self, f.name), getattr(other, f.name)])
            for f in dataclasses.fields(self)
            if f.name != "strata"
        }
        return Picks(strata=(*self.strata, *other.strata), **columns)
