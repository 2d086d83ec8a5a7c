"""The queue: a pool of tiles with their regions in, every tile in order with all that led to its place out.

Pure and repeatable: the same facts, policy, seed and round give the same queue whatever the order of the input. All
chance comes from a hash of (seed, purpose, round, id), so one tile more or less leaves the draws of the others alone.

Two stages. All regions are scored by what their rows say; a tile ranks by its best region, then by the sum of the
others. What is costly is asked for the best tiles alone: embeddings, and with them how unlike anything labelled each of
their regions is. Then the strategy chooses head after head; behind the planned heads, tiles stand by its order.

Audit tiles stand at fixed places, are drawn blindly from their own split and never compete with the others.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.candidates import Batch, Candidates, Picks, Stratum
from mpamatch.domain.draws import uniform_draws
from mpamatch.domain.factors import Factors, check_factors, scales_of
from mpamatch.domain.novelty import Embed
from mpamatch.domain.pool import Pool
from mpamatch.domain.ranked import STRATA, Ranked
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.record import RankedBy
from mpamatch.domain.selection import best_rows, shares_before
from mpamatch.domain.spreading import in_turns, typical_first
from mpamatch.domain.strategies import Strategy, strategy
from mpamatch.domain.survey import Labelled, Scored, Survey, blanked, no_region

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_TINY: Final = 1e-9


def rank(
    pool: Pool,
    policy: RankingPolicy,
    *,
    seed: int,
    round_number: int,
    blank: bool,
    embed: Embed | None = None,
    labelled: Labelled | None = None,
) -> Ranked:
    """Every tile once, first the one to ask next. ``blank``: no trained model yet, so nothing it says is used.

    ``embed`` is asked once for tiles that may be chosen and once for labelled ones; without it novelty is 0, and the
    head is spread over groups and images. Raises BadInput for a factor outside its range.
    """
    survey = Survey(pool, policy, seed, round_number, embed, labelled or Labelled.nothing())
    raw = survey.raw_factors()
    check_factors(pool.regions.ids, raw)
    train, audit = np.flatnonzero(~pool.audit), np.flatnonzero(pool.audit)
    plan = strategy(policy.strategy)
    if blank and plan.driven_by_model:
        scored = survey.scored(raw, plan, scales_of(raw))
        others = _cold(survey, train)
    else:
        raw, scored = survey.looked_at(raw, plan, train)
        others = _chosen(survey, raw, scored, plan, train)
    entries = _interleaved(others, _in_turns(survey, audit, "audit", policy.audit_share), policy.audit_share)
    return _ranked(survey, raw, scored, entries)


@dataclass(frozen=True)
class _Entries:
    """Some tiles in order, by their place in the pool."""

    tiles: Ints
    strata: Ints
    score: Floats
    noise: Floats
    propensity: Floats
    class_ids: Ints

    @classmethod
    def of(cls, tiles: Ints, stratum: Stratum, score: Floats, noise: Floats, propensity: Floats) -> _Entries:
        codes = np.full(len(tiles), STRATA.index(stratum))
        return cls(tiles, codes, score, noise, propensity, np.full(len(tiles), -1, np.int64))

    def take(self, places: Ints) -> _Entries:
        return _Entries(**{f.name: getattr(self, f.name)[places] for f in dataclasses.fields(self)})

    @classmethod
    def joined(cls, parts: list[_Entries]) -> _Entries:
        return cls(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(cls)})


# Ranked by what the model says, or by chance over what there is


def _chosen(survey: Survey, raw: Factors, scored: Scored, plan: Strategy, train: Ints) -> _Entries:
    """Head after head by the strategy, then the rest by its order."""
    found = survey.candidates(raw, scored, train)
    closed = np.zeros(len(found), bool)
    looks = [survey.seen_looks]
    seeds = [np.zeros((0, 1), np.float32)]
    heads: list[_Entries] = []
    for place in range(survey.policy.planned_heads):
        if closed.all():
            break
        batch = Batch(
            size=survey.per_head,
            policy=survey.policy,
            seed=survey.seed,
            round_number=survey.round_number,
            place=place,
            scales=scored.scales,
            closed=closed,
            seeds=None if found.vectors is None or place == 0 else np.concatenate(seeds[1:]),
            seen_looks=np.concatenate(looks),
        )
        picks = plan.pick(found, batch)
        rows = np.searchsorted(found.ids, picks.ids)
        closed[rows] = True
        looks.append(found.looks[rows])
        if found.vectors is not None:
            seeds.append(found.vectors[found.vector_rows[rows][found.vector_rows[rows] >= 0]])
        heads.append(_of_picks(train[rows], picks))
    return _Entries.joined([*heads, _left(survey, found, scored, plan, train, closed)])


def _of_picks(tiles: Ints, picks: Picks) -> _Entries:
    strata = np.array([STRATA.index(one) for one in picks.strata], np.int64)
    return _Entries(tiles, strata, picks.score, picks.noise, picks.propensity, picks.classes)


def _left(survey: Survey, found: Candidates, scored: Scored, plan: Strategy, train: Ints, closed: Bools) -> _Entries:
    """What no head has chosen: by the strategy's order, with a share by chance where it explores."""
    rows = np.flatnonzero(~closed)
    share = survey.policy.exploration_share if plan.explores else 0.0 if plan.driven_by_model else 1.0
    drawn_count = shares_before(len(rows), share)
    draws = uniform_draws(survey.seed, "exploration", survey.round_number, found.ids)
    no_rest = np.zeros(len(found))
    drawn = best_rows(rows, draws, no_rest, drawn_count)
    others = np.setdiff1d(rows, drawn, assume_unique=True)
    key, worth, noise = survey.ordered_by(found, scored, plan)
    others = best_rows(others, key, found.rest, len(others))
    one = np.ones(len(others))
    # Every tile has the same chance of each place that is drawn; those of one head count.
    chance = min(1.0, survey.per_head * share / max(len(rows), 1))
    parts = [
        _Entries.of(train[others], "score", worth[others], noise[others], one),
        _Entries.of(train[drawn], "exploration", worth[drawn], draws[drawn], np.full(len(drawn), chance)),
    ]
    return _Entries.joined(parts).take(_share_places(len(others), len(drawn), share))


# Drawn without a model's word


def _in_turns(survey: Survey, tiles: Ints, stratum: Stratum, share: float) -> _Entries:
    """Over groups and images in turns; the propensity is the chance of a tile of its group to be in the first head."""
    pool = survey.pool
    order = in_turns(
        pool.tile_ids[tiles], pool.images[tiles], pool.groups[tiles], pool.group_names, survey.seed, stratum
    )
    return _blind(survey, tiles[order], stratum, round(survey.policy.head_size * share))


def _blind(survey: Survey, tiles: Ints, stratum: Stratum, in_head: int) -> _Entries:
    groups = survey.pool.groups[tiles]
    names = len(survey.pool.group_names)
    sizes, taken = np.bincount(groups, minlength=names), np.bincount(groups[:in_head], minlength=names)
    zero = np.zeros(len(tiles))
    return _Entries.of(tiles, stratum, zero, zero, np.maximum(taken, 1)[groups] / np.maximum(sizes, 1)[groups])


def _cold(survey: Survey, train: Ints) -> _Entries:
    """A first order: what an encoder saw of the tiles leads where there is that, else groups and images in turns."""
    turns = _in_turns(survey, train, "cold", 1 - survey.policy.audit_share)
    if survey.embed is None or len(train) == 0:
        return turns
    pool, policy = survey.pool, survey.policy
    looked = np.sort(turns.tiles[: policy.cold_tiles])
    found = survey.embed(pool.tile_ids[looked]).checked(len(looked))
    known = np.diff(found.starts) > 0
    if not known.any():
        return turns
    tiles = looked[known]
    turn = np.empty(len(pool), np.int64)
    turn[turns.tiles] = np.arange(len(turns.tiles))
    order = typical_first(
        pool.groups[tiles],
        pool.images[tiles],
        found.vectors[found.starts[:-1][known]],
        survey.labelled_vectors(len(tiles)),
        turn[tiles],
        survey.per_head * policy.planned_heads,
        image_cap=policy.image_cap,
        group_cap=max(1, math.ceil(policy.group_share * survey.per_head)),
        per_head=survey.per_head,
        duplicate_cosine=policy.duplicate_cosine,
    )
    first = tiles[order]
    others = turns.tiles[~np.isin(turns.tiles, first)]
    return _blind(survey, np.concatenate([first, others]), "cold", survey.per_head)


# Places


def _interleaved(others: _Entries, audit: _Entries, share: float) -> _Entries:
    """Audit tiles at every (1/share)-th place, exactly, while both kinds last; then what is left."""
    return _Entries.joined([others, audit]).take(_share_places(len(others.tiles), len(audit.tiles), share))


def _share_places(often: int, rarely: int, share: float) -> Ints:
    """Places of both kinds joined, in the order in which they take turns.

    >>> _share_places(4, 2, 0.5).tolist()
    [0, 4, 1, 5, 2, 3]
    """
    size = often + rarely
    before = np.floor(np.arange(size + 1) * share + _TINY).astype(np.int64)
    due = np.flatnonzero(np.diff(before) > 0)[:rarely]
    due = due[due - np.arange(len(due)) <= often]  # until the others have run out
    rare = np.zeros(size, bool)
    rare[due] = True
    rare[size - (rarely - len(due)) :] = True
    places = np.empty(size, np.int64)
    places[rare] = often + np.arange(rarely)
    places[~rare] = np.arange(often)
    return places


def _ranked(survey: Survey, raw: Factors, scored: Scored, entries: _Entries) -> Ranked:
    pool, tiles = survey.pool, entries.tiles
    first = scored.best[tiles]
    shown = (first >= 0) & (entries.strata != STRATA.index("cold"))
    counts = np.where(shown, pool.region_counts[tiles], 0)
    starts = np.concatenate([[0], np.cumsum(counts)])
    regions = no_region(len(tiles)) if len(raw) == 0 else blanked(raw.take(np.maximum(first, 0)), ~shown)
    for_class = entries.class_ids >= 0
    class_worth = np.full(len(tiles), np.nan)
    most = survey.class_worth(raw, tiles[for_class])
    if most is not None:
        class_worth[for_class] = most[np.arange(len(most)), entries.class_ids[for_class]]
    return Ranked(
        ranked_by=RankedBy(survey.policy, scored.scales, survey.seed, survey.round_number),
        tile_ids=pool.tile_ids[tiles],
        strata=entries.strata,
        score=entries.score,
        noise=entries.noise,
        propensity=entries.propensity,
        class_ids=entries.class_ids,
        class_worth=class_worth,
        like_tile_ids=np.full(len(tiles), -1, np.int64),
        like_cosines=np.full(len(tiles), np.nan),
        um_per_px=pool.um_per_px[tiles],
        has_region=shown,
        regions=regions,
        region_ids=pool.regions.ids[_best_first(scored.worth, pool.starts[:-1][tiles], starts)],
        starts=starts,
    )


def _best_first(worth: Floats, firsts: Ints, starts: Ints) -> Ints:
    """The regions of some tiles, tile after tile, those of each by falling worth, of equals the lower first.

    A tile's begin at ``firsts`` and stand at ``starts`` to the next of what is returned. Tiles with as many regions are
    sorted together, as rows: all regions in one sort take several times as long.

    >>> _best_first(np.array([0.1, 0.5, 0.5, 0.9]), np.array([3, 0]), np.array([0, 1, 4])).tolist()
    [3, 1, 2, 0]
    """
    counts = np.diff(starts)
    ordered = np.empty(int(starts[-1]), np.int64)
    for count in np.unique(counts[counts > 0]):
        tiles, place = np.flatnonzero(counts == count), np.arange(count)
        regions = firsts[tiles, None] + place
        order = np.argsort(-worth[regions], axis=1, kind="stable")
        ordered[starts[:-1][tiles, None] + place] = np.take_along_axis(regions, order, axis=1)
    return ordered
