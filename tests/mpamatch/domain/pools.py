"""Small pools, row by row, and queues as lists: what tests write and read where the code has columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mpamatch.domain.novelty import TileEmbeddings
from mpamatch.domain.pool import Pool, RegionColumns
from mpamatch.domain.ranked import Ranked
from mpamatch.domain.ranking import rank
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.reasons import reasons
from mpamatch.domain.record import Record
from mpamatch.domain.survey import Labelled


@dataclass(frozen=True)
class RegionRow:
    """One region."""

    region_id: int
    area_px: float = 2000.0
    uncertainty: float = 0.5
    margin: float = 0.2
    impurity: float = 0.3
    disagreement: float = 0.0
    mean_confidence: float = 0.41
    predicted_class: int = 1
    bald: float = np.nan
    perimeter_px: float = np.nan
    class_scores: tuple[float, ...] | None = None


@dataclass(frozen=True)
class TileRow:
    """One tile with its regions; ``vectors`` are embeddings: the tile's own, then one for each region by id."""

    tile_id: int
    image_id: int
    group: str
    split: str
    regions: tuple[RegionRow, ...]
    foreground: float = np.nan
    um_per_px: float = np.nan
    look: int = 0
    vectors: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Entry:
    """One entry, with its place from 1 and its words."""

    rank: int
    tile_id: int
    region_ids: tuple[int, ...]
    score: float
    noise: float
    stratum: str
    propensity: float
    reasons: tuple[str, ...]
    class_id: int | None
    record: Record


def pool_of(tiles: Sequence[TileRow]) -> Pool:
    """The same as columns, in the given order of tiles and regions."""
    flat = [(t.tile_id, r) for t in tiles for r in t.regions]
    scores = [r.class_scores for _, r in flat]
    names = ("area_px", "uncertainty", "margin", "impurity", "disagreement", "mean_confidence", "bald", "perimeter_px")
    columns: dict[str, Any] = {n: np.array([getattr(r, n) for _, r in flat], np.float64) for n in names}
    regions = RegionColumns(
        ids=np.array([r.region_id for _, r in flat], np.int64),
        tile_ids=np.array([t for t, _ in flat], np.int64),
        predicted_class=np.array([r.predicted_class for _, r in flat], np.int64),
        class_scores=np.array(scores, np.float32) if scores and scores[0] is not None else None,
        **columns,
    )
    return Pool.of(
        tile_ids=np.array([t.tile_id for t in tiles], np.int64),
        images=np.array([t.image_id for t in tiles], np.int64),
        groups=[t.group for t in tiles],
        audit=np.array([t.split == "audit" for t in tiles], bool),
        um_per_px=np.array([t.um_per_px for t in tiles]),
        foreground=np.array([t.foreground for t in tiles]),
        looks=np.array([t.look for t in tiles], np.uint64),
        regions=regions,
    )


def embeddings_of(tiles: Iterable[TileRow], size: int = 8) -> Any:
    """What a ranking may ask embeddings of."""
    known: Mapping[int, TileRow] = {t.tile_id: t for t in tiles}

    def embed(ids: np.ndarray) -> TileEmbeddings:
        rows = [known[int(i)].vectors for i in ids]
        starts = np.concatenate([[0], np.cumsum([len(r) for r in rows])]).astype(np.int64)
        flat = [v for r in rows for v in r]
        return TileEmbeddings(np.array(flat, np.float32).reshape(len(flat), -1 if flat else size), starts)

    return embed


def entries_of(ranked: Ranked) -> list[Entry]:
    """Every entry in order."""
    found = []
    for place in range(len(ranked)):
        record = ranked.record(place)
        shown = ranked.region_ids[ranked.starts[place] : ranked.starts[place + 1]]
        found.append(
            Entry(
                rank=place + 1,
                tile_id=record.tile_id,
                region_ids=tuple(int(i) for i in shown),
                score=record.score,
                noise=record.noise,
                stratum=record.stratum,
                propensity=record.propensity,
                reasons=reasons(record),
                class_id=record.class_id,
                record=record,
            )
        )
    return found


def queue_of(
    tiles: Sequence[TileRow],
    policy: RankingPolicy,
    *,
    seed: int = 1,
    round_number: int = 1,
    blank: bool = False,
    embedded: bool = False,
    labelled: Sequence[TileRow] = (),
) -> list[Entry]:
    """The queue of some tiles."""
    ranked = rank(
        pool_of(tiles),
        policy,
        seed=seed,
        round_number=round_number,
        blank=blank,
        embed=embeddings_of([*tiles, *labelled]) if embedded else None,
        labelled=Labelled(
            np.array([t.tile_id for t in labelled], np.int64), np.array([t.look for t in labelled], np.uint64)
        ),
    )
    return entries_of(ranked)


def without_chance(policy: RankingPolicy) -> RankingPolicy:
    """The same, with scores alone to decide."""
    return replace(policy, noise_beta_first=1e9, noise_beta_last=1e9, exploration_share=0.0, audit_share=0.0)
