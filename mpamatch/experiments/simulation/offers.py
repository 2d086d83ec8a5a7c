"""What a strategy may choose from in a round, as candidates of `mpamatch.domain.candidates`; one row is one box.

Strategies that are driven by the model see the regions of doubt. Beside these stand boxes by chance of which the model
says nothing (``silent`` rows): the exploration share of `mpamatch` is drawn from both, nearly all of it from these.
Strategies by chance see boxes by chance alone, so that what the model doubts does not leak into them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mpamatch.domain.candidates import Candidates
from mpamatch.domain.classes import IGNORE
from mpamatch.domain.draws import uniform_draws
from mpamatch.domain.factors import Factors, support
from mpamatch.domain.novelty import distances
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.regions import Region
from mpamatch.domain.survey import no_region
from mpamatch.domain.tiling import Box
from mpamatch.experiments.simulation.boxes import Boxes, as_rows, boxes_by_chance, shares_in
from mpamatch.experiments.simulation.hidden_pool import HiddenPool
from mpamatch.experiments.simulation.looking import Seen
from mpamatch.experiments.simulation.oracle import clicks_for

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_CHANCE: Final = 11
"""What the places of boxes are drawn for: the second number of their seed."""
# Ids hang on the image and the place in it alone: a million for each image, regions first.
_PER_TILE: Final = 1_000_000
_REGIONS_PER_TILE: Final = 1_000


@dataclasses.dataclass(frozen=True)
class ChanceBoxes:
    """Boxes by chance of a round: ``boxes`` (N, 4), the image of each, and an id that hangs on nothing else."""

    ids: Ints
    tiles: Ints
    boxes: Boxes

    @classmethod
    def draw(cls, pool: HiddenPool, side_px: int, *, seed: int, round_number: int) -> ChanceBoxes:
        """The same for every strategy of a seed."""
        found = []
        for tile in range(len(pool)):
            rng = np.random.default_rng([seed, _CHANCE, round_number, tile])
            found.append(boxes_by_chance(pool.tissue(tile), pool.sizes_px[tile], side_px, rng))
        counts = [len(boxes) for boxes in found]
        tiles = np.repeat(np.arange(len(pool)), counts)
        inner = np.concatenate([np.arange(count) for count in counts])
        return cls(tiles * _PER_TILE + _REGIONS_PER_TILE + inner, tiles, np.concatenate(found))


def tiles_offered(pool: HiddenPool) -> Candidates:
    """Every image as one box."""
    tiles = np.arange(len(pool))
    return Candidates.of(
        ids=tiles,
        images=tiles,
        groups=pool.groups,
        factors=no_region(len(pool)),
        boxes=as_rows([pool.whole(tile) for tile in tiles.tolist()]),
    )


def boxes_offered(pool: HiddenPool, drawn: ChanceBoxes, seen: Sequence[Seen] | None) -> Candidates:
    """Boxes by chance; with how much foreground the model sees in each, where it was asked."""
    return Candidates.of(
        ids=drawn.ids,
        images=drawn.tiles,
        groups=pool.groups[drawn.tiles],
        factors=no_region(len(drawn.ids)),
        foreground=None if seen is None else _foreground(seen, drawn.tiles, drawn.boxes),
        boxes=drawn.boxes,
    )


def regions_offered(
    pool: HiddenPool, drawn: ChanceBoxes, seen: Sequence[Seen], policy: RankingPolicy, *, seed: int, round_number: int
) -> Candidates:
    """The regions of doubt with all that the model says of them, and boxes by chance of which it says nothing."""
    regions, tiles = _regions(seen)
    places = np.concatenate([np.arange(len(one.regions)) for one in seen])
    all_tiles = np.concatenate([tiles, drawn.tiles])
    boxes = np.concatenate([as_rows([region.box for region in regions]), drawn.boxes])
    ids = np.concatenate([tiles * _PER_TILE + places, drawn.ids])
    silent = np.arange(len(ids)) >= len(regions)
    spoken = _factors(regions, seen, policy) if regions else no_region(0)
    vectors = np.stack([region.embedding for region in regions if region.embedding is not None]) if regions else None
    return Candidates.of(
        ids=ids,
        images=all_tiles,
        groups=pool.groups[all_tiles],
        factors=_joined(spoken, no_region(len(drawn.ids))),
        class_worth=_class_worth(regions, len(drawn.ids), spoken, policy),
        foreground=_foreground(seen, all_tiles, boxes),
        vectors=vectors,
        vector_rows=np.where(silent, -1, np.arange(len(ids))),
        boxes=boxes,
        rest=np.where(silent, uniform_draws(seed, "silent", round_number, ids), 0.0),
        silent=silent,
    )


def truth_offered(pool: HiddenPool, drawn: ChanceBoxes, seen: Sequence[Seen], policy: RankingPolicy) -> Candidates:
    """The boxes of regions and those by chance, with what is wrong in each and what it costs."""
    regions, tiles = _regions(seen)
    places = np.concatenate([np.arange(len(one.regions)) for one in seen])
    all_tiles = np.concatenate([tiles, drawn.tiles])
    boxes = np.concatenate([as_rows([region.box for region in regions]), drawn.boxes])
    wrong = np.zeros(len(boxes))
    clicks = np.zeros(len(boxes))
    for tile, one in enumerate(seen):
        rows = np.flatnonzero(all_tiles == tile)
        truth = pool.truth(tile)
        wrong[rows] = shares_in((one.predicted != truth) & (truth != IGNORE), boxes[rows])
        clicks[rows] = [clicks_for(truth, Box(*boxes[row].tolist())) for row in rows]
    return Candidates.of(
        ids=np.concatenate([tiles * _PER_TILE + places, drawn.ids]),
        images=all_tiles,
        groups=pool.groups[all_tiles],
        factors=Factors.of(
            area_px=boxes[:, 2] * boxes[:, 3], uncertainty=wrong, policy=policy, true_error=wrong, clicks=clicks
        ),
        boxes=boxes,
    )


def _regions(seen: Sequence[Seen]) -> tuple[list[Region], Ints]:
    """All regions, image by image, and the image of each."""
    tiles = np.repeat(np.arange(len(seen)), [len(one.regions) for one in seen])
    return [region for one in seen for region in one.regions], tiles


def _factors(regions: Sequence[Region], seen: Sequence[Seen], policy: RankingPolicy) -> Factors:
    labelled = np.concatenate([one.labelled for one in seen])
    vectors = np.stack([region.embedding for region in regions if region.embedding is not None])
    names = ("margin", "impurity", "disagreement", "mean_confidence", "perimeter_px")
    known: dict[str, Any] = {name: np.array([getattr(region, name) for region in regions]) for name in names}
    return Factors.of(
        area_px=np.array([region.area_px for region in regions]),
        uncertainty=np.array([region.uncertainty for region in regions]),
        policy=policy,
        predicted_class=np.array([region.predicted_class for region in regions], np.int64),
        bald=np.concatenate([np.array(one.bald, np.float64) for one in seen]),
        distance=distances(vectors, labelled),
        **known,
    )


def _class_worth(regions: Sequence[Region], silent: int, factors: Factors, policy: RankingPolicy) -> Floats | None:
    """What speaks for each row as one of each class; nothing for silent rows."""
    if not regions:
        return None
    scores = np.array([region.class_scores for region in regions], np.float64)
    worth: Floats = np.concatenate(
        [scores * support(factors.area_px, policy)[:, None], np.zeros((silent, scores.shape[1]))]
    )
    return worth


def _foreground(seen: Sequence[Seen], tiles: Ints, boxes: Boxes) -> Floats:
    """The share of each box that is predicted as foreground."""
    shares = np.zeros(len(boxes))
    for tile, one in enumerate(seen):
        rows = np.flatnonzero(tiles == tile)
        shares[rows] = shares_in(one.predicted > 0, boxes[rows])
    return shares


def _joined(first: Factors, second: Factors) -> Factors:
    names = [field.name for field in dataclasses.fields(Factors)]
    return Factors(**{name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in names})
