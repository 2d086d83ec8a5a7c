"""The queue: tiles with their regions in, every tile in order with score, stratum, propensity and reasons out.

Pure and repeatable: the same facts, policy, seed and round give the same queue whatever the order of the input. All
chance comes from a hash of (seed, purpose, round, id), so one tile more or less leaves the draws of the others alone
and a queue re-ranked within a round stays as it was but for what changed.

A region scores by a sum, not a product: a product is zero for a homogeneous, wrong, uncertain area. The tile ranks by
its best region, then by the sum of the others. Chance enters in three recorded ways: power noise on the score (diverse
early, greedy late; Gumbel top-k as in ClaSP PE), an exploration share drawn evenly over what is left, and audit tiles,
which stand at fixed places, are drawn blindly from their own split and never compete with the others.

Thin so far: novelty is 0 until embeddings arrive; no class strata, no k-center, no near-duplicate veto.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice, pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.draws import hash_draw, uniform_draws
from mpamatch.errors import BadInput

Stratum = Literal["score", "exploration", "audit", "cold"]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_PX_PER_CLICK: Final = 12.0  # contour length that one click covers after simplification


@dataclass(frozen=True, slots=True)
class RegionFacts:
    """What one model alone says of a region; all but the area and the class lie in 0..1."""

    region_id: int
    area_px: int
    uncertainty: float
    margin: float
    impurity: float
    disagreement: float
    predicted_class: int
    mean_confidence: float


@dataclass(frozen=True, slots=True)
class TileFacts:
    """A tile that may be asked for. ``group`` is the patient or case; ``split`` is ``train`` or ``audit``."""

    tile_id: int
    image_id: int
    group: str
    split: str
    regions: tuple[RegionFacts, ...]


@dataclass(frozen=True)
class RankingPolicy:
    """Every knob of the order.

    ``weight_*``: the sum of a region's factors. ``support_px``: a region of this area counts half, since the mean of a
    few pixels says little. ``full_cost_clicks``: clicks at which the cost is 1. ``noise_beta_*``: from diverse to
    greedy over ``planned_rounds``. ``image_cap`` tiles of one image and ``group_share`` of one group at most in each
    of the first ``capped_heads`` heads, as far as other tiles are there to take their place.
    """

    head_size: int = 50
    audit_share: float = 0.2
    exploration_share: float = 0.1
    tau: float = 0.95
    weight_uncertainty: float = 0.4
    weight_impurity: float = 0.2
    weight_disagreement: float = 0.2
    weight_novelty: float = 0.2
    support_px: float = 256.0
    full_cost_clicks: float = 60.0
    noise_beta_first: float = 1.0
    noise_beta_last: float = 100.0
    planned_rounds: int = 10
    image_cap: int = 3
    group_share: float = 0.2
    capped_heads: int = 4

    def __post_init__(self) -> None:
        shares = (self.audit_share, self.exploration_share, self.group_share, self.tau)
        counts = (self.head_size, self.planned_rounds, self.image_cap)
        positive = (self.support_px, self.full_cost_clicks, self.noise_beta_first, self.noise_beta_last)
        weights = (self.weight_uncertainty, self.weight_impurity, self.weight_disagreement, self.weight_novelty)
        if not all(0 <= s <= 1 for s in shares) or min(counts) < 1 or self.capped_heads < 0:
            raise BadInput("ranking policy", f"out of range: {self}", "shares lie in 0..1, counts are at least 1")
        if not all(0 < p < math.inf for p in positive) or not all(0 <= w < math.inf for w in weights):
            raise BadInput("ranking policy", f"out of range: {self}", "weights are 0 or more, scales above 0")


@dataclass(frozen=True, slots=True)
class RankedTile:
    """One entry. ``score`` is that of the best region without noise; ``noise`` is what chance added to its logarithm.

    ``propensity``: the chance that this stratum's draw would put the tile into this head; 1 where the score decides.
    """

    rank: int
    tile_id: int
    region_ids: tuple[int, ...]
    score: float
    noise: float
    stratum: Stratum
    propensity: float
    reasons: tuple[str, ...]
    cost: float = 0.0
    novelty: float = 0.0


@dataclass(frozen=True)
class _Scored:
    """Per tile: regions best first, the best one's score and cost, the sum of the others, noise, sorting key."""

    regions: list[tuple[RegionFacts, ...]]
    best: Floats
    rest: Floats
    cost: Floats
    noise: Floats
    key: Floats


def rank(
    tiles: Iterable[TileFacts], policy: RankingPolicy, *, seed: int, round_number: int, blank: bool
) -> tuple[RankedTile, ...]:
    """Every tile once, first the one to ask next. ``blank``: no trained model yet, so nothing it says is used.

    Raises BadInput for a tile given twice, an unknown split, or a factor outside 0..1.
    """
    ordered = sorted(tiles, key=lambda t: t.tile_id)
    _check(ordered)
    train = [t for t in ordered if t.split == "train"]
    audit = _spread([t for t in ordered if t.split == "audit"], seed, "audit", policy, "audit")
    if blank:
        others = _spread(train, seed, "cold", policy, "cold")
    else:
        others = _by_score(train, policy, seed, round_number)
    return _interleave(others, audit, policy.audit_share)


def region_scores(regions: Sequence[RegionFacts], policy: RankingPolicy, novelty: float = 0.0) -> tuple[Floats, Floats]:
    """Score and cost of each region, two float64 arrays (N,): factors summed by weight, times support, over cost.

    s = (w_u u + w_i imp + w_d dis + w_n nov) * area / (area + support) / sqrt(0.25 + 0.75 cost), where cost is the
    clicks of a contour around a disc of the same area, as a share of ``full_cost_clicks``.
    """
    table = np.array(
        [(r.uncertainty, r.impurity, r.disagreement, r.area_px) for r in regions], dtype=np.float64
    ).reshape(-1, 4)
    fine = ((table >= 0) & np.isfinite(table)).all(axis=1) & (table[:, :3] <= 1).all(axis=1) & (table[:, 3] > 0)
    if not fine.all():
        bad = regions[int(np.flatnonzero(~fine)[0])]
        raise BadInput(f"region {bad.region_id}", f"out of range: {bad}", "factors lie in 0..1, the area is above 0")
    weights = (policy.weight_uncertainty, policy.weight_impurity, policy.weight_disagreement)
    total = table[:, :3] @ np.array(weights) + policy.weight_novelty * novelty
    area = table[:, 3]
    clicks = 1 + 2 * np.sqrt(math.pi * area) / _PX_PER_CLICK
    cost = np.minimum(clicks / policy.full_cost_clicks, 1.0)
    return total * area / (area + policy.support_px) / np.sqrt(0.25 + 0.75 * cost), cost


def _check(tiles: Sequence[TileFacts]) -> None:
    for one, following in pairwise(tiles):
        if one.tile_id == following.tile_id:
            raise BadInput(f"tile {one.tile_id}", "is given twice", "give each tile once")
    for tile in tiles:
        if tile.split not in ("train", "audit"):
            raise BadInput(f"tile {tile.tile_id}", f"unknown split {tile.split!r}", "use train or audit")


# Ranked by what the model says


def _by_score(tiles: list[TileFacts], policy: RankingPolicy, seed: int, round_number: int) -> list[RankedTile]:
    if not tiles:
        return []
    scored = _score_tiles(tiles, policy, seed, round_number)
    ids = np.array([t.tile_id for t in tiles], dtype=np.int64)
    by_score = np.lexsort((ids, -scored.rest, -scored.key))
    by_chance = np.lexsort((ids, uniform_draws(seed, "exploration", round_number, ids)))
    places = _places(tiles, by_score.tolist(), by_chance.tolist(), policy)
    return [
        RankedTile(
            rank=0,
            tile_id=tiles[at].tile_id,
            region_ids=tuple(r.region_id for r in scored.regions[at]),
            score=float(scored.best[at]),
            noise=float(scored.noise[at]),
            stratum=stratum,
            propensity=propensity,
            reasons=_reasons(scored.regions[at], stratum, policy),
            cost=float(scored.cost[at]),
        )
        for at, stratum, propensity in places
    ]


def _score_tiles(tiles: Sequence[TileFacts], policy: RankingPolicy, seed: int, round_number: int) -> _Scored:
    flat = [r for t in tiles for r in t.regions]
    owner = np.repeat(np.arange(len(tiles)), [len(t.regions) for t in tiles])
    scores, costs = region_scores(flat, policy)
    order = np.lexsort((np.array([r.region_id for r in flat], dtype=np.int64), -scores, owner))
    starts = np.searchsorted(owner, np.arange(len(tiles) + 1))
    best, cost, total = np.zeros(len(tiles)), np.zeros(len(tiles)), np.zeros(len(tiles))
    has = starts[1:] > starts[:-1]
    first = order[starts[:-1][has]]
    best[has], cost[has] = scores[first], costs[first]
    np.add.at(total, owner, scores)
    noise = _power_noise(tiles, policy, seed, round_number)
    key = np.log(np.maximum(best, 1e-9)) + noise
    key[~has] = -math.inf  # confident everywhere: after everything that has a region, whatever the noise
    regions = [tuple(flat[i] for i in order[a:b]) for a, b in pairwise(starts)]
    return _Scored(regions, best, total - best, cost, noise, key)


def _power_noise(tiles: Sequence[TileFacts], policy: RankingPolicy, seed: int, round_number: int) -> Floats:
    """Gumbel(0, 1/beta), beta growing exponentially over the planned rounds."""
    done = min(max(round_number, 0) / policy.planned_rounds, 1.0)
    beta = policy.noise_beta_first ** (1 - done) * policy.noise_beta_last**done
    ids = np.array([t.tile_id for t in tiles], dtype=np.int64)
    noise: Floats = -np.log(-np.log(uniform_draws(seed, "noise", round_number, ids))) / beta
    return noise


def _places(
    tiles: Sequence[TileFacts], by_score: list[int], by_chance: list[int], policy: RankingPolicy
) -> list[tuple[int, Stratum, float]]:
    """Head by head: reserve the exploration draws, fill the rest by score under the caps, put both in their places."""
    per_head = max(policy.head_size - _shares_before(policy.head_size, policy.audit_share), 1)
    placed = [False] * len(tiles)
    places: list[tuple[int, Stratum, float]] = []
    chances, waiting = iter(by_chance), iter(by_score)
    while len(places) < len(tiles):
        left = len(tiles) - len(places)
        size = min(per_head, left)
        wanted = _shares_before(size, policy.exploration_share)
        drawn = _take(chances, placed, wanted)
        if len(places) < policy.capped_heads * per_head:
            chosen, passed = _take_capped(tiles, waiting, placed, size - wanted, drawn, policy)
            waiting = chain(passed, waiting)
        else:
            chosen = _take(waiting, placed, size - wanted)
        for place in range(1, size + 1):
            if _is_share_place(place, policy.exploration_share):
                places.append((drawn.pop(0), "exploration", wanted / left))
            else:
                places.append((chosen.pop(0), "score", 1.0))
    return places


def _take(candidates: Iterator[int], placed: list[bool], count: int) -> list[int]:
    """The next ``count`` that have no place yet; marks them as placed."""
    taken = list(islice((at for at in candidates if not placed[at]), count))
    for at in taken:
        placed[at] = True
    return taken


def _take_capped(
    tiles: Sequence[TileFacts],
    candidates: Iterator[int],
    placed: list[bool],
    count: int,
    drawn: Sequence[int],
    policy: RankingPolicy,
) -> tuple[list[int], list[int]]:
    """The next ``count``, and those passed over because their image or group had its share (``drawn`` counts too)."""
    chosen: list[int] = []
    passed: list[int] = []
    per_group = math.ceil(policy.group_share * policy.head_size)
    images, groups = Counter(tiles[at].image_id for at in drawn), Counter(tiles[at].group for at in drawn)
    while len(chosen) < count and (at := next(candidates, None)) is not None:
        tile = tiles[at]
        if placed[at]:
            continue
        if images[tile.image_id] >= policy.image_cap or groups[tile.group] >= per_group:
            passed.append(at)
            continue
        images[tile.image_id] += 1
        groups[tile.group] += 1
        chosen.append(at)
        placed[at] = True
    return chosen + _take(iter(passed), placed, count - len(chosen)), passed  # an unfilled head helps nobody


def _reasons(regions: Sequence[RegionFacts], stratum: Stratum, policy: RankingPolicy) -> tuple[str, ...]:
    """In words for the annotator, the strongest first."""
    by_chance = "drawn at random, to look where the model may be wrong without knowing"
    drawn = (by_chance,) if stratum == "exploration" else ()
    if not regions:
        return (*drawn, f"no region below {policy.tau:.2f}: confident everywhere")
    best = regions[0]
    reasons = (*drawn, f"confidence {best.mean_confidence:.2f} below {policy.tau:.2f} over {best.area_px} px")
    factors = (
        (policy.weight_uncertainty * best.uncertainty, f"classes nearly tied (entropy {best.uncertainty:.2f})"),
        (policy.weight_impurity * best.impurity, f"several classes mixed (impurity {best.impurity:.2f})"),
        (policy.weight_disagreement * best.disagreement, f"head and prototypes disagree ({best.disagreement:.2f})"),
    )
    weight, largest = max(factors, key=lambda f: f[0])
    reasons += (largest,) if weight > 0 else ()
    others = len(regions) - 1
    if others < 1:
        return reasons
    return (*reasons, f"{others} more uncertain regions" if others > 1 else "1 more uncertain region")


# Drawn without a model's word


def _spread(
    tiles: list[TileFacts], seed: int, purpose: str, policy: RankingPolicy, stratum: Literal["audit", "cold"]
) -> list[RankedTile]:
    """Round-robin over groups, within a group over its images, otherwise by chance: a few tiles of every case early."""
    if not tiles:
        return []
    reason = {
        "audit": "audit tile: it judges the models, so nothing is drawn for you; label all of it",
        "cold": "no trained model yet, a spread over all cases: please label the whole tile",
    }[stratum]
    order = _round_robin(tiles, seed, purpose)
    share = policy.audit_share if stratum == "audit" else 1 - policy.audit_share
    in_head = [tiles[at].group for at in order[: round(policy.head_size * share)]]
    sizes, taken = Counter(t.group for t in tiles), Counter(in_head)
    return [
        RankedTile(
            rank=0,
            tile_id=tiles[at].tile_id,
            region_ids=(),
            score=0.0,
            noise=0.0,
            stratum=stratum,
            propensity=max(taken[tiles[at].group], 1) / sizes[tiles[at].group],
            reasons=(reason,),
        )
        for at in order
    ]


def _round_robin(tiles: Sequence[TileFacts], seed: int, purpose: str) -> list[int]:
    ids = np.array([t.tile_id for t in tiles], dtype=np.int64)
    chance = uniform_draws(seed, purpose, 0, ids)
    images = np.array([t.image_id for t in tiles], dtype=np.int64)
    names, groups = np.unique(np.array([t.group for t in tiles], dtype=object), return_inverse=True)
    group_chance = np.array([hash_draw(seed, purpose, name) for name in names], dtype=np.uint64)[groups]
    in_image = _position(np.lexsort((ids, chance, images)), images)
    image_chance = uniform_draws(seed, purpose + "-image", 0, images)
    in_group = _position(np.lexsort((ids, images, image_chance, in_image, groups)), groups)
    return [int(at) for at in np.lexsort((ids, groups, group_chance, in_group))]


def _position(order: Ints, labels: Ints) -> Ints:
    """For each element, its place among those of its label when taken in ``order``, which is sorted by label first."""
    ordered = labels[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[starts, len(ordered)])
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order)) - np.repeat(starts, lengths)
    return position


# Places


def _interleave(others: list[RankedTile], audit: list[RankedTile], share: float) -> tuple[RankedTile, ...]:
    """Audit tiles at every (1/share)-th place, exactly, while both kinds last; then what is left."""
    queue: list[RankedTile] = []
    others_at = audit_at = 0
    for place in range(1, len(others) + len(audit) + 1):
        due = _is_share_place(place, share)
        if audit_at < len(audit) and (due or others_at == len(others)):
            tile, audit_at = audit[audit_at], audit_at + 1
        else:
            tile, others_at = others[others_at], others_at + 1
        queue.append(_at_rank(tile, place))
    return tuple(queue)


def _at_rank(t: RankedTile, place: int) -> RankedTile:
    # Spelled out: dataclasses.replace costs five times as much, and this runs once per tile of the pool.
    return RankedTile(
        place, t.tile_id, t.region_ids, t.score, t.noise, t.stratum, t.propensity, t.reasons, t.cost, t.novelty
    )


def _shares_before(places: int, share: float) -> int:
    return math.floor(places * share + 1e-9)


def _is_share_place(place: int, share: float) -> bool:
    """Whether the share grows by one at this place (from 1): every 5th place at 0.2."""
    return _shares_before(place, share) > _shares_before(place - 1, share)
