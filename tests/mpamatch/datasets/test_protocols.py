from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpamatch.datasets import open_dataset
from mpamatch.datasets.items import DatasetItem
from mpamatch.datasets.protocols import (
    NAMED,
    RATIOS,
    ImageLists,
    count_of,
    draw_labelled,
    draw_lists,
    draw_order,
    group_folds,
    named_protocol,
)
from mpamatch.errors import BadInput
from tests.contracts.reference import ROOT

LISTS = ROOT / "docs" / "results" / "lists"


def item(name: str, group: str, kind: str = "") -> DatasetItem:
    return DatasetItem(name, Path(name), Path(name), group, kind)


def many(groups: int = 6, each: int = 5, kinds: int = 3) -> list[DatasetItem]:
    return [item(f"i{g}-{n}", f"p{g}", f"s{n % kinds}") for g in range(groups) for n in range(each)]


ITEMS = st.lists(
    st.builds(item, st.text(min_size=1, max_size=4), st.sampled_from("abcd"), st.sampled_from("xyz")),
    min_size=1,
    max_size=30,
    unique_by=lambda i: i.name,
)


@given(ITEMS, st.integers(0, 9))
def test_a_draw_depends_on_the_seed_and_not_on_the_order_of_the_items(items: list[DatasetItem], seed: int) -> None:
    order = draw_order(items, seed)
    assert sorted(order) == sorted(i.name for i in items)
    shuffled = list(items)
    random.Random(seed).shuffle(shuffled)
    assert draw_order(shuffled, seed) == order


@given(ITEMS, st.integers(0, 9))
def test_groups_are_drawn_in_turns_as_long_as_they_have_images(items: list[DatasetItem], seed: int) -> None:
    group = {i.name: i.group for i in items}
    sizes = Counter(group.values())
    drawn = Counter[str]()
    for name in draw_order(items, seed):
        open_groups = [g for g in sizes if drawn[g] < sizes[g]]
        assert drawn[group[name]] == min(drawn[g] for g in open_groups)
        drawn[group[name]] += 1


def test_within_the_turn_the_rarest_kind_comes_first() -> None:
    for seed in range(5):
        chosen = draw_labelled(many(), 6, seed)
        of = {i.name: i for i in many()}
        assert Counter(of[n].group for n in chosen) == {f"p{g}": 1 for g in range(6)}
        assert Counter(of[n].kind for n in chosen) == {"s0": 2, "s1": 2, "s2": 2}


def test_seeds_differ_and_a_larger_draw_holds_the_smaller_one() -> None:
    draws = {draw_labelled(many(), 6, seed) for seed in range(5)}
    assert len(draws) > 1
    for count in range(1, 29):
        assert set(draw_labelled(many(), count, 3)) < set(draw_labelled(many(), count + 1, 3))


def test_every_kind_gets_its_least_even_where_one_patient_holds_it_all() -> None:
    items = [item(f"a{n}", f"p{n}", "common") for n in range(20)] + [item(f"r{n}", "one", "rare") for n in range(3)]
    assert sum(name.startswith("r") for name in draw_labelled(items, 6, 0)) <= 1
    for seed in range(5):
        assert sum(name.startswith("r") for name in draw_labelled(items, 6, seed, least=3)) == 3
    with pytest.raises(BadInput, match="3 images of 'rare', 4 wanted of each"):
        draw_labelled(items, 10, 0, least=4)
    with pytest.raises(BadInput, match="5 wanted, 3 of each of 2 kinds are 6"):
        draw_labelled(items, 5, 0, least=3)


def test_counts_beyond_the_images_are_refused_and_none_means_all() -> None:
    assert len(draw_labelled(many(), None, 0)) == 30
    for count in (0, 31):
        with pytest.raises(BadInput, match="30 images have a mask"):
            draw_labelled(many(), count, 0)


def test_the_shares_of_a_ladder_are_whole_images() -> None:
    assert [count_of(share, 163) for share in RATIOS] == [2, 3, 8, 16, 33, 82, 127]
    with pytest.raises(BadInput):
        count_of(1.5, 10)


def test_lists_come_back_from_their_document() -> None:
    audit = [item("v", "other")]
    lists = draw_lists("glas", many(), audit, 4, 7, least=1, test=[item("t", "third")])
    assert (len(lists.labelled), len(lists.pool), lists.audit, lists.test) == (4, 26, ("v",), ("t",))
    assert set(lists.labelled).isdisjoint(lists.pool)
    assert ImageLists.from_json(json.loads(json.dumps(lists.to_json()))) == lists
    with pytest.raises(BadInput, match="1 names occur twice, such as v"):
        ImageLists.from_json(lists.to_json() | {"pool": ["v"]})
    with pytest.raises(BadInput, match="not a document"):
        ImageLists.from_json({"seed": 1})


def test_images_without_a_mask_are_pool() -> None:
    bare = DatasetItem("bare", Path("bare"), None, "p0")
    for seed in range(3):
        lists = draw_lists("glas", [*many(), bare], [], 30, seed)
        assert lists.pool == ("bare",)


@pytest.mark.method_line(45)
def test_a_patient_in_training_and_audit_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"image i2-0: its 'p2' is also that of v, which judges"):
        draw_lists("glas", many(), [item("v", "p2")], 4, 0)
    with pytest.raises(BadInput, match="image i0-0: both trains and judges"):
        draw_lists("glas", many(), [item("i0-0", "elsewhere")], 4, 0)
    with pytest.raises(BadInput, match="which judges"):
        draw_lists("glas", many(), [], 4, 0, test=[item("t", "p5")])


def test_folds_leave_out_whole_groups_once_and_are_of_about_equal_size() -> None:
    items = many(groups=7, each=4) + [item(f"big{n}", "big") for n in range(9)]
    group = {i.name: i.group for i in items}
    folds = group_folds(items, 3, 0)
    assert sorted(name for fold in folds for name in fold) == sorted(group)
    for fold in folds:
        assert {group[n] for n in fold}.isdisjoint(group[n] for other in folds if other != fold for n in other)
    assert max(map(len, folds)) - min(map(len, folds)) <= 4
    assert group_folds(items[::-1], 3, 0) == folds
    assert any(group_folds(items, 3, seed) != folds for seed in range(1, 5))
    with pytest.raises(BadInput, match="9 wanted of 8 groups"):
        group_folds(items, 9, 0)


def whole(train: int, test: int) -> list[DatasetItem]:
    names = [f"train_{n}" for n in range(train)] + [f"test{'AB'[n % 2]}_{n}" for n in range(test)]
    return [item(name, f"patient {n % 9}") for n, name in enumerate(names)]


@pytest.mark.parametrize(
    ("name", "train", "counts"),
    [
        ("glas-10", 85, (7, 66, 12, 80)),
        ("glas-20", 85, (14, 59, 12, 80)),
        ("crag-10", 173, (16, 137, 20, 40)),
        ("crag-20", 173, (31, 122, 20, 40)),
    ],
)
def test_named_protocols_have_the_published_counts(name: str, train: int, counts: tuple[int, ...]) -> None:
    items = whole(train, counts[3])
    lists = named_protocol(name).lists(items, 1)
    assert tuple(map(len, (lists.labelled, lists.pool, lists.audit, lists.test))) == counts
    assert ImageLists.from_json(lists.to_json()) == lists  # no name twice
    assert named_protocol(name).lists(items[::-1], 1) == lists
    assert all(n.startswith("test") for n in lists.test)
    assert not any(n.startswith("test") for n in (*lists.labelled, *lists.pool, *lists.audit))


def test_both_label_shares_of_a_set_are_judged_on_the_same_images() -> None:
    ten, twenty = (NAMED[name].lists(whole(85, 80), 2) for name in ("glas-10", "glas-20"))
    assert ten.audit == twenty.audit
    assert set(ten.labelled) < set(twenty.labelled)


def test_a_part_of_a_set_and_an_unknown_protocol_are_one_line() -> None:
    with pytest.raises(BadInput) as caught:
        NAMED["glas-10"].lists(whole(23, 20), 0)
    assert "needs 85 official train and 80 test images of glas; 23 and 20 are here" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(BadInput, match="glas-10, glas-20, crag-10, crag-20"):
        named_protocol("glas")


@pytest.mark.shared
def test_a_part_of_glas_does_not_pass_for_the_whole(shared_dir: Path) -> None:
    with pytest.raises(BadInput, match="23 and 20 are here"):
        NAMED["glas-10"].lists(open_dataset("glas", shared_dir / "data" / "glas").items(), 0)


@pytest.mark.shared
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("name", "count", "groups", "kinds"), [("glas", 4, 4, 2), ("ebhi", 16, 16, 6)])
def test_the_committed_lists_are_what_the_seed_draws(
    shared_dir: Path, name: str, count: int, groups: int, kinds: int, seed: int
) -> None:
    data = open_dataset(name, shared_dir / "data" / name)
    lists = draw_lists(name, data.items("train"), data.items("val"), count, seed)
    document = json.loads((LISTS / f"{name}-{count}-seed{seed}.json").read_text(encoding="utf-8"))
    assert ImageLists.from_json(document) == lists
    of = {i.name: i for i in data.items()}
    assert len({of[n].group for n in lists.labelled}) == groups
    assert len({of[n].kind for n in lists.labelled}) == kinds
