from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpamatch.domain.cost import CostModel
from mpamatch.domain.look_alikes import LookAlike, LookAlikes
from mpamatch.domain.ranking import rank
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.reasons import reasons
from mpamatch.domain.record import recompute, recompute_key
from mpamatch.domain.strategies import by_chance, strategy
from mpamatch.domain.strategy_names import SIMULATION_ONLY, STRATEGY_NAMES
from mpamatch.errors import BadInput
from tests.mpamatch.domain.pools import RegionRow, TileRow, embeddings_of, entries_of, pool_of, queue_of, without_chance

POLICY = RankingPolicy()
GREEDY = without_chance(POLICY)
NO_MODEL = {"seed": 1, "round_number": 0, "blank": True}
share = st.floats(0, 1)
names = st.sampled_from([name for name in STRATEGY_NAMES if name not in SIMULATION_ONLY])


def region(region_id: int = 1, *, area: float = 2000, u: float = 0.5, imp: float = 0.3, dis: float = 0.0) -> RegionRow:
    return RegionRow(region_id, area, u, 0.2, imp, dis)


def tile(tile_id: int, *regions: RegionRow, group: str = "a", split: str = "train", image: int = 0) -> TileRow:
    return TileRow(tile_id, image or tile_id, group, split, regions)


def pool(count: int, seed: int = 0, groups: int = 12, audit_groups: int = 3, classes: int = 1) -> list[TileRow]:
    """Tiles with up to three regions, class scores and embeddings; four tiles to an image, every case its own."""
    rng = np.random.default_rng(seed)
    tiles = []
    for number in range(count):
        case = number % groups
        regions = tuple(
            replace(
                region(
                    number * 10 + k, area=int(rng.integers(64, 20_000)), u=float(rng.random()), imp=float(rng.random())
                ),
                predicted_class=int(rng.integers(0, classes + 1)),
                class_scores=tuple(float(x) for x in rng.random(classes + 1)),
            )
            for k in range(rng.integers(0, 4))
        )
        split = "audit" if case < audit_groups else "train"
        made = tile(number + 1, *regions, group=f"case-{case}", split=split, image=1 + number // 4)
        vectors = rng.normal(size=(len(regions) + 1, 8))
        shown = float(rng.random()) if rng.random() < 0.6 else 0.0
        tiles.append(replace(made, vectors=tuple(map(tuple, vectors)), foreground=shown))
    return tiles


@st.composite
def pools(draw):
    count = draw(st.integers(0, 25))
    return [
        tile(
            number * 7 + 1,
            *(
                region(
                    number * 10 + k, area=draw(st.integers(1, 50_000)), u=draw(share), imp=draw(share), dis=draw(share)
                )
                for k in range(draw(st.integers(0, 3)))
            ),
            group=draw(st.sampled_from("abcde")),
            split=draw(st.sampled_from(["train", "train", "train", "audit"])),
            image=draw(st.integers(1, 20)),
        )
        for number in range(count)
    ]


policies = st.builds(
    RankingPolicy,
    head_size=st.integers(1, 40),
    audit_share=st.floats(0, 0.5),
    exploration_share=share,
    image_cap=st.integers(1, 4),
    group_share=share,
    planned_heads=st.integers(0, 3),
    strategy=names,
)


@pytest.mark.method_line(42)
@settings(max_examples=40)
@given(pools(), policies, st.integers(0, 2**40), st.integers(0, 20), st.booleans(), st.randoms(use_true_random=False))
def test_the_same_seed_gives_the_same_queue_whatever_the_order_of_the_input(tiles, policy, seed, number, blank, random):
    asked = {"seed": seed, "round_number": number, "blank": blank}
    queue = queue_of(tiles, policy, **asked)
    shuffled = [replace(t, regions=tuple(random.sample(t.regions, len(t.regions)))) for t in tiles]
    random.shuffle(shuffled)
    assert queue_of(shuffled, policy, **asked) == queue


@pytest.mark.parametrize("name", [n for n in STRATEGY_NAMES if n not in SIMULATION_ONLY])
def test_that_holds_with_embeddings_class_scores_and_labels_too(name):
    tiles = pool(120, classes=3)
    labelled = [replace(t, tile_id=1000 + t.tile_id) for t in pool(30, seed=5)]
    policy = replace(POLICY, strategy=name, head_size=20)
    queue = queue_of(tiles, policy, embedded=True, labelled=labelled)
    for order in (list(reversed(tiles)), [tiles[i] for i in np.random.default_rng(1).permutation(len(tiles))]):
        assert queue_of(order, policy, embedded=True, labelled=labelled[::-1]) == queue


@settings(max_examples=40)
@given(pools(), policies, st.integers(0, 1000), st.booleans())
def test_every_tile_comes_once_in_its_own_stratum_with_a_reason_and_a_propensity(tiles, policy, seed, blank):
    queue = queue_of(tiles, policy, seed=seed, round_number=1, blank=blank)
    by_id = {t.tile_id: t for t in tiles}
    assert sorted(e.tile_id for e in queue) == sorted(by_id)
    assert [e.rank for e in queue] == list(range(1, len(queue) + 1))
    for entry in queue:
        facts = by_id[entry.tile_id]
        assert (entry.stratum == "audit") == (facts.split == "audit")
        assert entry.reasons
        assert all(entry.reasons)
        assert 0 < entry.propensity <= 1
        assert math.isfinite(entry.score)
        assert math.isfinite(entry.noise)
        shown = {r.region_id for r in facts.regions} if entry.stratum not in ("audit", "cold") else set()
        assert set(entry.region_ids) == shown
        assert len(entry.region_ids) == len(shown)


@settings(max_examples=40)
@given(pools(), policies, st.integers(0, 1000), st.integers(0, 12))
def test_every_score_and_its_chance_can_be_computed_again_from_the_record_alone(tiles, policy, seed, number):
    for entry in queue_of(tiles, policy, seed=seed, round_number=number):
        assert recompute(entry.record) == pytest.approx(entry.score, abs=1e-12)
        by, tile_id = entry.record.ranked_by, np.array([entry.tile_id])
        drawn = {
            "audit": lambda *_: np.zeros(1),
            "exploration": by_chance.draws_of,
        }.get(entry.stratum, strategy(by.policy.strategy).noise)
        assert entry.noise == drawn(tile_id, by.policy, by.seed, by.round_number)[0]


@pytest.mark.parametrize("name", [n for n in STRATEGY_NAMES if n not in SIMULATION_ONLY])
def test_what_a_model_says_of_audit_tiles_moves_nothing(name):
    tiles = pool(120, classes=3)
    tiles = [replace(t, regions=tuple(replace(r, bald=0.1 * r.uncertainty) for r in t.regions)) for t in tiles]
    otherwise = [
        t
        if t.split == "train"
        else replace(
            t,
            regions=(replace(region(9_000 + t.tile_id, u=1.0, imp=1.0), bald=1.0, class_scores=(1.0,) * 4),),
            vectors=((1.0,) * 8,) * 2,
            foreground=1.0,
        )
        for t in tiles
    ]
    assert otherwise != tiles
    policy = replace(POLICY, strategy=name, head_size=20)
    assert queue_of(otherwise, policy, embedded=True) == queue_of(tiles, policy, embedded=True)


def test_what_no_head_has_chosen_stands_in_the_order_that_the_records_give():
    tiles = pool(400, classes=3)
    queue = queue_of(tiles, replace(POLICY, planned_heads=0), embedded=True, labelled=[])
    keys = [recompute_key(e.record) for e in queue if e.stratum == "score" and e.record.region is not None]
    assert len(keys) > 100
    assert keys == sorted(keys, reverse=True)


def test_within_a_head_what_the_model_chose_stands_in_that_order_too():
    queue = queue_of(pool(400, classes=3), POLICY, embedded=True)
    per_head = 40
    others = [e for e in queue if e.stratum != "audit"]
    for start in range(0, POLICY.planned_heads * per_head, per_head):
        keys = [recompute_key(e.record) for e in others[start : start + per_head] if e.stratum != "exploration"]
        assert keys == sorted(keys, reverse=True)


# Places of audit tiles


def test_audit_tiles_stand_at_exactly_every_fifth_place():
    queue = queue_of(pool(300), POLICY, seed=4, round_number=2)
    places = [e.rank for e in queue if e.stratum == "audit"]
    assert places[:50] == [5 * k for k in range(1, 51)]


@pytest.mark.parametrize(("share", "first"), [(0.1, 10), (0.2, 5), (0.25, 4), (0.5, 2)])
def test_the_interleaving_is_exact_for_other_shares_too(share, first):
    tiles = [tile(n, split="audit" if n % 2 else "train", group=str(n)) for n in range(1, 2001)]
    queue = queue_of(tiles, replace(POLICY, audit_share=share), blank=True)
    places = [e.rank for e in queue if e.stratum == "audit" and e.rank <= 1000]
    assert places == list(range(first, 1001, first))


def test_when_one_split_runs_out_the_other_fills_its_places():
    few_audit = [tile(n, region(n), split="audit" if n <= 2 else "train") for n in range(1, 21)]
    strata = [e.stratum for e in queue_of(few_audit, POLICY)]
    assert [i + 1 for i, s in enumerate(strata) if s == "audit"] == [5, 10]
    few_train = [tile(n, region(n), split="train" if n <= 2 else "audit") for n in range(1, 21)]
    strata = [e.stratum for e in queue_of(few_train, POLICY)]
    assert strata[:2] != ["audit", "audit"]
    assert set(strata[2:]) == {"audit"}


def test_audit_tiles_come_from_several_groups_early_and_do_not_depend_on_the_model_or_round():
    tiles = pool(300, groups=20, audit_groups=5)
    groups = {t.tile_id: t.group for t in tiles}
    trained = [e.tile_id for e in queue_of(tiles, POLICY, round_number=5, embedded=True) if e.stratum == "audit"]
    assert len({groups[t] for t in trained[:5]}) == 5
    blank = [e.tile_id for e in queue_of(tiles, POLICY, round_number=0, blank=True) if e.stratum == "audit"]
    assert trained == blank


# By score


def test_a_tile_ranks_by_its_best_region_and_then_by_the_sum_of_the_others():
    strong, weak = region(1, u=0.9), region(2, u=0.1)
    tiles = [
        tile(1, weak, replace(weak, region_id=3), replace(weak, region_id=4), image=1),
        tile(2, strong, image=2),
        tile(3, replace(strong, region_id=5), replace(weak, region_id=6), image=3),
        tile(4),
    ]
    policy = replace(GREEDY, planned_heads=0, noise_beta_first=1e300, noise_beta_last=1e300)
    queue = queue_of(tiles, policy, round_number=0)
    assert [e.tile_id for e in queue] == [3, 2, 1, 4]
    assert queue[0].region_ids == (5, 6)


def test_a_tile_without_a_region_comes_after_all_that_have_one_and_says_so():
    tiles = [tile(n) for n in range(1, 30)] + [tile(99, region(1, u=0.01, imp=0.0, area=64), group="z")]
    queue = queue_of(tiles, replace(POLICY, exploration_share=0), round_number=0)
    assert queue[0].tile_id == 99
    assert "confident everywhere" in queue[1].reasons[0]


def test_noise_is_wide_in_the_first_round_and_gone_in_the_last():
    tiles = pool(400)
    first = queue_of(tiles, POLICY, round_number=0)
    last = queue_of(tiles, POLICY, round_number=10)
    assert np.std([e.noise for e in first if e.stratum == "score"]) > 0.8
    assert np.std([e.noise for e in last if e.stratum == "score"]) < 0.02


def test_a_labelled_tile_that_leaves_does_not_reshuffle_the_others():
    tiles = [tile(n, region(n, u=n / 100), group=str(n)) for n in range(1, 80)]
    policy = replace(POLICY, exploration_share=0.0, audit_share=0.0)
    before = [e.tile_id for e in queue_of(tiles, policy)]
    after = [e.tile_id for e in queue_of(tiles[:40] + tiles[41:], policy)]
    assert after == [t for t in before if t != tiles[40].tile_id]


def test_a_tile_that_leaves_does_not_change_what_chance_says_of_another():
    tiles = pool(400)
    before = {e.tile_id: e.noise for e in queue_of(tiles, POLICY) if e.stratum == "score"}
    after = {e.tile_id: e.noise for e in queue_of(tiles[:50] + tiles[60:], POLICY) if e.stratum == "score"}
    both = before.keys() & after.keys()
    assert len(both) > 50
    assert all(before[t] == after[t] for t in both)


def test_what_is_unlike_anything_labelled_rises():
    same = [replace(tile(n, region(n)), group=str(n), vectors=((1.0, 0.0), (1.0, 0.02 * n))) for n in range(1, 20)]
    other = replace(tile(50, region(50)), group="50", vectors=((0.0, 1.0), (0.0, 1.0)))
    labelled = replace(tile(99, region(99)), vectors=((1.0, 0.0), (1.0, 0.0)))
    queue = queue_of([*same, other], replace(GREEDY, planned_heads=0), embedded=True, labelled=[labelled])
    assert queue[0].tile_id == 50
    assert queue[0].record.region.distance == pytest.approx(1.0)
    assert "unlike anything labelled" in queue[0].reasons
    assert queue_of([*same, other], replace(GREEDY, planned_heads=0))[0].record.region.distance is None


def test_only_the_front_is_asked_for_embeddings():
    tiles = [replace(t, regions=tuple(replace(r, class_scores=None) for r in t.regions)) for t in pool(100)]
    asked = []

    def embed(ids):
        asked.append(len(ids))
        return embeddings_of(tiles)(ids)

    rank(pool_of(tiles), replace(POLICY, front_tiles=10), seed=1, round_number=1, blank=False, embed=embed)
    assert asked == [10, 0]  # the front, and what is labelled


def test_embeddings_that_were_stored_for_other_regions_are_not_used():
    tiles = [replace(tile(1, region(1), region(2)), vectors=((1.0, 0.0), (1.0, 0.0)))]
    labelled = replace(tile(9), vectors=((0.0, 1.0),))
    assert queue_of(tiles, GREEDY, embedded=True, labelled=[labelled])[0].record.region.distance is None


# Heads


def test_exploration_has_its_share_of_the_head_and_its_propensity_is_the_chance_of_the_draw():
    tiles = [tile(n, region(n, u=n / 1000), group=str(n % 50)) for n in range(1, 401)]
    policy = replace(POLICY, head_size=50, audit_share=0.0, exploration_share=0.1)
    queue = queue_of(tiles, policy, seed=3)
    drawn = [e for e in queue[:50] if e.stratum == "exploration"]
    assert len(drawn) == 5
    assert {e.propensity for e in drawn} == {5 / 400}
    assert "drawn at random" in drawn[0].reasons[0]


def test_over_many_seeds_every_tile_is_explored_equally_often():
    tiles = [tile(n, region(n, u=n / 100), group=str(n)) for n in range(1, 41)]
    policy = replace(POLICY, head_size=10, audit_share=0.0, exploration_share=0.2, planned_heads=1)
    columns = pool_of(tiles)
    counts: Counter[int] = Counter()
    for seed in range(500):
        ranked = rank(columns, policy, seed=seed, round_number=1, blank=False)
        counts.update(ranked.tile_ids[:10][ranked.strata[:10] == 2].tolist())
    expected = 500 * 2 / 40
    assert sum(counts.values()) == 1000
    chi2 = sum((counts[t.tile_id] - expected) ** 2 / expected for t in tiles)
    assert chi2 < 73  # 99.9 % of chi2 with 39 degrees of freedom


@pytest.mark.method_line(43)
def test_most_of_a_head_goes_to_the_classes_in_equal_parts():
    tiles = [replace(t, split="train") for t in pool(600, classes=3)]
    queue = queue_of(tiles, replace(POLICY, audit_share=0.0), embedded=True)
    head = queue[:50]
    strata = Counter(e.stratum for e in head)
    assert strata == {"exploration": 5, "class": 30, "score": 15}
    assert Counter(e.class_id for e in head if e.stratum == "class") == {1: 10, 2: 10, 3: 10}
    assert all("among the most doubtful of its class" in e.reasons for e in head if e.stratum == "class")
    assert all(e.record.class_worth > 0 for e in head if e.stratum == "class")


def test_a_class_that_only_lesser_regions_have_is_served():
    tiles = [
        tile(n, *(replace(region(n * 10 + k, u=u), predicted_class=k) for k, u in ((1, 0.9), (2, 0.2))[: 1 + (n <= 9)]))
        for n in range(1, 61)
    ]
    assert Counter(e.class_id for e in queue_of(tiles, GREEDY)[:50] if e.stratum == "class")[2] == 9


def test_one_image_and_one_group_cannot_fill_the_head_while_others_are_there():
    crowded = [tile(n, region(n, u=0.9), group="big", image=1) for n in range(1, 31)]
    others = [tile(n, region(n, u=0.2), group=f"g{n % 10}", image=n) for n in range(31, 91)]
    policy = replace(GREEDY, head_size=20)
    head = queue_of(crowded + others, policy, round_number=0)[:20]
    assert 1 <= sum(e.tile_id <= 30 for e in head) <= 3
    per_group = Counter(t.group for t in crowded + others for e in head if e.tile_id == t.tile_id)
    assert max(per_group.values()) <= 4


def test_caps_give_way_when_nothing_else_is_left():
    crowded = [tile(n, region(n, u=0.9), group="big", image=1) for n in range(1, 31)]
    queue = queue_of(crowded, replace(GREEDY, head_size=20), round_number=0)
    assert len(queue) == 30


def test_near_copies_are_not_in_one_head_while_others_are_there():
    copies = [replace(tile(n, region(n, u=0.9), group=str(n)), vectors=((1.0, 0.0, 0.0),) * 2) for n in range(1, 11)]
    rng = np.random.default_rng(0)
    others = [
        replace(tile(n, region(n, u=0.3), group=str(n)), vectors=(tuple(rng.normal(size=3)),) * 2)
        for n in range(11, 100)
    ]
    head = queue_of(copies + others, replace(GREEDY, head_size=10), embedded=True)[:10]
    assert sum(e.tile_id <= 10 for e in head) == 1


def test_pictures_that_look_the_same_are_not_in_one_head_either():
    alike = [replace(tile(n, region(n, u=0.9), group=str(n)), look=0xF0F0F0F0 ^ (n % 3)) for n in range(1, 11)]
    rng = np.random.default_rng(0)
    others = [
        replace(tile(n, region(n, u=0.3), group=str(n)), look=int(rng.integers(1, 2**63))) for n in range(11, 100)
    ]
    head = queue_of(alike + others, replace(GREEDY, head_size=10))[:10]
    assert sum(e.tile_id <= 10 for e in head) == 1
    labelled = replace(tile(500), look=0xF0F0F0F0)
    head = queue_of(alike + others, replace(GREEDY, head_size=10), labelled=[labelled])[:10]
    assert sum(e.tile_id <= 10 for e in head) == 0


def test_a_labelled_tile_that_is_asked_for_again_is_no_copy_of_itself():
    """It was labelled in part: its picture counts as known, its regions, which lie elsewhere, do not."""
    again = replace(tile(1, region(1, u=0.9), group="1"), vectors=((1.0, 0.0), (0.6, 0.8)), look=0xF0F0F0F0)
    others = [
        replace(tile(n, region(n, u=0.3), group=str(n)), vectors=((1.0, 0.0), (1.0, 0.0)), look=n << 40)
        for n in range(2, 30)
    ]
    queue = queue_of([again, *others], replace(GREEDY, head_size=5), embedded=True, labelled=[again])
    first = next(e for e in queue if e.tile_id == 1)
    assert first.rank <= 5
    assert first.record.region.distance == pytest.approx(0.4, abs=1e-3)


# What sinks


def test_look_alikes_of_artefacts_come_last_in_their_order_and_audit_tiles_keep_their_places():
    tiles = pool(120, classes=2)
    ranked = rank(pool_of(tiles), POLICY, seed=1, round_number=1, blank=False)
    before = entries_of(ranked)
    audit = [e for e in before if e.stratum == "audit"]
    numbers = sorted({e.tile_id for e in before[:40:3]} | {e.tile_id for e in audit} | {10**6})
    like = {tile: LookAlike(5000 + tile, 0.96 + tile / 10**9) for tile in numbers}
    columns = (np.array([getattr(one, name) for one in like.values()]) for name in ("artefact", "cosine"))
    after = entries_of(ranked.sunk(LookAlikes(np.array(numbers), *columns)))
    assert [e for e in after if e.stratum == "audit"] == audit
    moving = [e for e in before if e.stratum != "audit"]
    staying = [e for e in moving if e.tile_id not in like]
    sinking = [replace(e, record=replace(e.record, like=like[e.tile_id])) for e in moving if e.tile_id in like]
    sinking = [replace(e, reasons=reasons(e.record)) for e in sinking]
    assert [replace(e, rank=0) for e in after if e.stratum != "audit"] == [
        replace(e, rank=0) for e in [*staying, *sinking]
    ]
    assert len(sinking) == len({e.tile_id for e in before[:40:3]} - {e.tile_id for e in audit})
    assert all(e.reasons[0].startswith(f"at the end: looks like tile {5000 + e.tile_id}") for e in sinking)
    assert entries_of(ranked.sunk(LookAlikes.nothing())) == before
    assert ranked.asked.tolist() == [e.tile_id for e in moving]


# Without a model


def test_without_a_trained_model_the_first_tiles_come_from_all_cases_in_turn():
    tiles = pool(240, groups=12, audit_groups=0)
    queue = queue_of(tiles, POLICY, **NO_MODEL)
    groups = {t.tile_id: t.group for t in tiles}
    for start in range(0, 48, 12):
        assert len({groups[e.tile_id] for e in queue[start : start + 12]}) == 12
    assert {e.stratum for e in queue} == {"cold"}
    assert queue[0].reasons == ("no trained model yet, a spread over all cases: please label the whole tile",)
    other = queue_of(tiles, POLICY, seed=2, round_number=0, blank=True)
    assert [e.tile_id for e in other] != [e.tile_id for e in queue]


def test_within_a_case_the_cold_start_goes_over_its_images_in_turn():
    tiles = [tile(n, group="one", image=1 + (n > 30)) for n in range(1, 41)]
    queue = queue_of(tiles, POLICY, **NO_MODEL)
    images = {t.tile_id: t.image_id for t in tiles}
    assert [len({images[e.tile_id] for e in queue[k : k + 2]}) for k in range(0, 20, 2)] == [2] * 10


def test_where_an_encoder_saw_the_tiles_the_cold_start_begins_with_each_groups_typical_one():
    rng = np.random.default_rng(3)
    middles = np.eye(6)
    tiles = []
    for n in range(1, 121):
        near = 0.05 if n <= 6 else 0.6  # the first tile of each group is its middle
        vector = middles[n % 6] + rng.normal(scale=near, size=6)
        tiles.append(replace(tile(n, group=str(n % 6), image=n), vectors=(tuple(vector),)))
    queue = queue_of(tiles, POLICY, embedded=True, **NO_MODEL)
    assert {t.group for t in tiles for e in queue[:6] if e.tile_id == t.tile_id} == set("012345")
    assert len({e.tile_id for e in queue[:6]} & set(range(1, 7))) >= 4
    assert {e.stratum for e in queue} == {"cold"}
    assert sorted(e.tile_id for e in queue) == [t.tile_id for t in tiles]


def test_a_strategy_by_chance_stays_one_without_a_model():
    tiles = pool(60, audit_groups=0)
    assert {e.stratum for e in queue_of(tiles, replace(POLICY, strategy="random"), **NO_MODEL)} == {"exploration"}


# Words, many tiles, mistakes


def test_one_slide_with_everything_does_not_make_the_caps_slow():
    columns = pool_of([tile(n, region(n, u=(n % 97) / 97), group="slide", image=1) for n in range(1, 20_001)])
    begun = time.process_time()
    assert len(rank(columns, POLICY, seed=1, round_number=1, blank=False)) == 20_000
    assert time.process_time() - begun < 20  # each beside each would be minutes


def test_an_empty_pool_is_an_empty_queue():
    assert queue_of([], POLICY) == []
    assert queue_of([], POLICY, blank=True) == []
    assert queue_of([], POLICY, embedded=True) == []


@pytest.mark.parametrize("bad", [{"u": 1.2}, {"imp": -0.1}, {"dis": math.nan}, {"area": 0}])
def test_a_factor_out_of_range_is_refused_and_the_region_named(bad):
    with pytest.raises(BadInput, match="region 5"):
        queue_of([tile(1, region(4), region(5, **bad))], POLICY)


def test_a_tile_given_twice_is_refused():
    with pytest.raises(BadInput, match="twice"):
        pool_of([tile(1), tile(1)])


@pytest.mark.parametrize(
    "values",
    [
        *({"audit_share": 1.1}, {"head_size": 0}, {"support_px": -1.0}, {"weight_novelty": math.inf}),
        *({"strategy": "best"}, {"taus": (0.9, 1.1)}),
    ],
)
def test_a_policy_out_of_range_is_refused(values):
    with pytest.raises(BadInput):
        RankingPolicy(**values)


def test_a_policy_comes_back_from_json_as_it_was():
    policy = replace(POLICY, strategy="ripu", cost=CostModel(seconds_per_click=2.0), taus=(0.95, 0.9))
    assert RankingPolicy.from_json(json.loads(json.dumps(policy.to_json()))) == policy
    with pytest.raises(BadInput, match="surprise"):
        RankingPolicy.from_json({"surprise": 1})
