from __future__ import annotations

import numpy as np
import pytest

from mpamatch.domain.candidates import Batch
from mpamatch.domain.embeddings import embedding_of_tile
from mpamatch.domain.looks import Look
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.strategies import STRATEGIES
from mpamatch.domain.tiling import Box
from mpamatch.experiments.simulation.hidden_pool import HiddenPool
from mpamatch.experiments.simulation.looking import embeddings_of_boxes
from mpamatch.experiments.simulation.offers import (
    ChanceBoxes,
    boxes_offered,
    regions_offered,
    tiles_offered,
    truth_offered,
)
from tests.mpamatch.experiments.simulation.pools import BOX_PX, SIDE_PX, division_at, seen_of

POLICY = RankingPolicy()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> HiddenPool:
    return HiddenPool(division_at(tmp_path_factory.mktemp("tissue") / "drawn"))


def chance(pool: HiddenPool, seed: int = 0, round_number: int = 0) -> ChanceBoxes:
    return ChanceBoxes.draw(pool, BOX_PX, seed=seed, round_number=round_number)


def test_boxes_by_chance_hang_on_seed_round_and_image_alone(pool: HiddenPool) -> None:
    first = chance(pool)
    assert np.array_equal(first.boxes, chance(pool).boxes)
    assert not np.array_equal(first.boxes, chance(pool, round_number=1).boxes)
    assert not np.array_equal(first.boxes, chance(pool, seed=1).boxes)
    assert len(np.unique(first.ids)) == len(first.ids)
    counts = np.bincount(first.tiles, minlength=len(pool))
    assert counts.min() > 0.8 * 8 * (SIDE_PX / BOX_PX) ** 2


def test_all_boxes_have_one_size_whoever_offers_them(pool: HiddenPool) -> None:
    seen, drawn = seen_of(pool), chance(pool)
    for found in (
        boxes_offered(pool, drawn, seen),
        regions_offered(pool, drawn, seen, POLICY, seed=0, round_number=0),
        truth_offered(pool, drawn, seen, POLICY),
    ):
        assert found.boxes is not None
        assert {tuple(box) for box in found.boxes[:, 2:].tolist()} == {(BOX_PX, BOX_PX)}


def test_regions_speak_and_boxes_by_chance_are_silent(pool: HiddenPool) -> None:
    known = {0: [Box(0, 0, SIDE_PX, SIDE_PX)]}
    seen, drawn = seen_of(pool, known), chance(pool)
    found = regions_offered(pool, drawn, seen, POLICY, seed=0, round_number=0)
    assert found.silent.sum() == len(drawn.ids)
    spoken = ~found.silent
    assert spoken.sum() == sum(len(one.regions) for one in seen)
    assert not seen[0].regions, "labelled whole"
    assert (found.factors.uncertainty[spoken] > 0.9).all()
    assert np.isfinite(found.factors.distance[spoken]).all()
    assert found.vectors is not None
    assert found.class_worth is not None
    assert (found.class_worth[spoken] > 0).any(axis=1).all()
    assert not found.class_worth[found.silent].any()
    for name in ("entropy", "margin", "ripu", "mpamatch"):
        policy = RankingPolicy(exploration_share=0.0)
        picks = STRATEGIES[name].pick(found, Batch(4, policy, 0, 0))
        assert not found.silent[np.searchsorted(found.ids, picks.ids)].any(), name


def test_exploration_is_drawn_from_both_and_mostly_by_chance(pool: HiddenPool) -> None:
    found = regions_offered(pool, chance(pool), seen_of(pool), POLICY, seed=0, round_number=0)
    policy = RankingPolicy(exploration_share=1.0, image_cap=1000, group_share=1.0)
    picks = STRATEGIES["mpamatch"].pick(found, Batch(40, policy, 0, 0))
    drawn = picks.ids[[stratum == "exploration" for stratum in picks.strata]]
    assert len(drawn) > 30
    assert found.silent[np.searchsorted(found.ids, drawn)].mean() > 0.8


def test_a_pool_that_the_model_is_sure_of_offers_boxes_by_chance_alone(pool: HiddenPool) -> None:
    everything = {tile: [pool.whole(tile)] for tile in range(len(pool))}
    seen = seen_of(pool, everything)
    assert not any(one.regions for one in seen)
    found = regions_offered(pool, chance(pool), seen, POLICY, seed=0, round_number=0)
    assert found.silent.all()
    for name in ("entropy", "mpamatch", "coreset"):
        assert len(STRATEGIES[name].pick(found, Batch(3, POLICY, 0, 0))) == 3


def test_foreground_is_what_the_model_predicts_in_a_box(pool: HiddenPool) -> None:
    seen, drawn = seen_of(pool), chance(pool)
    found = boxes_offered(pool, drawn, seen)
    for row in range(0, len(found), 97):
        x, y, width, height = found.boxes[row]
        inside = seen[int(found.images[row])].predicted[y : y + height, x : x + width] > 0
        assert found.foreground[row] == pytest.approx(inside.mean())
    picks = STRATEGIES["foreground-random"].pick(found, Batch(20, POLICY, 0, 0))
    shown = found.foreground[np.searchsorted(found.ids, picks.ids)] >= POLICY.least_foreground
    assert shown.sum() >= 10, "at least half of the draws contain predicted foreground"


def test_the_oracle_knows_what_is_wrong_in_a_box_and_what_it_costs(pool: HiddenPool) -> None:
    seen = seen_of(pool)
    found = truth_offered(pool, chance(pool), seen, POLICY)
    for row in range(0, len(found), 89):
        x, y, width, height = found.boxes[row]
        area = np.s_[y : y + height, x : x + width]
        tile = int(found.images[row])
        assert found.factors.true_error[row] == pytest.approx(
            (seen[tile].predicted[area] != pool.truth(tile)[area]).mean()
        )
    assert found.factors.clicks.min() == 1
    picks = STRATEGIES["oracle"].pick(found, Batch(3, POLICY, 0, 0))
    wrong = found.factors.true_error
    assert wrong[np.searchsorted(found.ids, picks.ids)].min() > wrong.mean()


def test_a_tile_is_one_box(pool: HiddenPool) -> None:
    found = tiles_offered(pool)
    assert found.boxes is not None
    assert found.boxes.tolist() == [[0, 0, SIDE_PX, SIDE_PX]] * len(pool)


def test_a_box_looks_like_the_cells_that_it_covers() -> None:
    tokens = np.random.default_rng(0).standard_normal((6, 4, 4)).astype(np.float32)
    look = Look(np.full((2, 64, 64), 0.5, np.float32), tokens)
    rows = embeddings_of_boxes(look, [Box(0, 0, 64, 64), Box(16, 32, 16, 16)])
    assert rows[0] == pytest.approx(embedding_of_tile(look.vectors), abs=1e-5)
    cell = tokens[:, 2, 1]
    assert rows[1] == pytest.approx(cell / np.linalg.norm(cell), abs=1e-5)
    assert embeddings_of_boxes(look, []).shape == (0, 6)
