from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpamatch.domain.splits import assign_splits

GROUPS = st.lists(st.text(min_size=1, max_size=6), max_size=60)


def audits(splits: dict[str, str]) -> int:
    return sum(split == "audit" for split in splits.values())


def test_two_groups_give_one_of_each_and_one_alone_trains() -> None:
    assert sorted(assign_splits({}, ["p1", "p2"]).values()) == ["audit", "train"]
    assert assign_splits({}, ["p1"]) == {"p1": "train"}


def test_a_second_group_arriving_later_judges_the_first() -> None:
    first = assign_splits({}, ["p1"])
    assert assign_splits(first, ["p2"]) == {"p1": "train", "p2": "audit"}


def test_about_a_fifth_of_many_groups_is_audit() -> None:
    assert audits(assign_splits({}, (f"p{i}" for i in range(100)))) == 20


@given(st.dictionaries(st.text(min_size=1, max_size=6), st.sampled_from(["train", "audit"])), GROUPS)
def test_known_groups_keep_their_split_and_every_new_one_gets_exactly_one(
    known: dict[str, str], new: list[str]
) -> None:
    splits = assign_splits(known, new)
    assert {group: splits[group] for group in known} == known
    assert set(splits) == set(known) | set(new)
    assert set(splits.values()) <= {"train", "audit"}
    assert assign_splits(splits, new) == splits


@given(GROUPS, st.randoms(use_true_random=False))
def test_the_order_of_arrival_within_a_batch_does_not_matter(new: list[str], random: object) -> None:
    shuffled = list(new)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign_splits({}, shuffled) == assign_splits({}, new)


@given(st.lists(GROUPS, max_size=8))
def test_as_groups_grow_no_group_moves_and_audit_stays_near_a_fifth(batches: list[list[str]]) -> None:
    splits: dict[str, str] = {}
    for batch in batches:
        grown = assign_splits(splits, batch)
        assert all(grown[group] == split for group, split in splits.items())
        splits = grown
    if len(splits) > 1:
        assert 0.2 * len(splits) <= audits(splits) < 0.2 * len(splits) + 1
