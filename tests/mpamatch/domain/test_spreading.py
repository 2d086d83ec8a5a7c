from __future__ import annotations

import numpy as np

from mpamatch.domain.novelty import unit
from mpamatch.domain.spreading import in_turns, typical_first

LOOSE = {"image_cap": 999, "group_cap": 999, "per_head": 999, "duplicate_cosine": 1.0}


def _vectors(count: int, seed: int = 0, size: int = 6) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, size)))


def _first(groups: np.ndarray, count: int, vectors: np.ndarray, **values: object) -> list[int]:
    images = np.arange(len(groups))
    options = {**LOOSE, **values}
    return typical_first(groups, images, vectors, vectors[:0], images, count, **options).tolist()


def test_groups_get_places_in_proportion_to_their_sizes_early_on() -> None:
    groups = np.repeat([0, 1, 2], [60, 30, 10])
    order = _first(groups, 100, _vectors(100))
    for count in (10, 20, 50):
        given = np.bincount(groups[order[:count]], minlength=3)
        assert np.abs(given - count * np.array([0.6, 0.3, 0.1])).max() <= 1
    assert sorted(order) == list(range(100))


def test_the_first_of_a_group_is_its_most_typical_and_the_next_the_farthest() -> None:
    vectors = _vectors(30)
    groups = np.zeros(30, np.int64)
    order = _first(groups, 4, vectors)
    middle = unit(vectors.mean(axis=0)[None])[0]
    assert order[0] == int((vectors @ middle).argmax())
    for count in range(1, 4):
        nearest = np.array([max(float(v @ vectors[c]) for c in order[:count]) for v in vectors])
        nearest[order[:count]] = 2
        assert order[count] == int(nearest.argmin())


def test_what_is_labelled_already_is_kept_away_from() -> None:
    vectors = _vectors(30)
    images = np.arange(30)
    groups = np.repeat([0, 1], 15)
    order = typical_first(groups, images, vectors, vectors[:15], images, 30, **{**LOOSE, "duplicate_cosine": 0.999})
    assert set(order[:15].tolist()) == set(range(15, 30))  # copies of what is labelled come last


def test_caps_hold_in_each_head_and_give_way_in_the_end() -> None:
    groups = np.repeat([0, 1], [50, 4])
    order = _first(groups, 54, _vectors(54), group_cap=3, per_head=6)
    assert np.bincount(groups[order[:6]]).tolist() == [3, 3]
    assert sorted(order) == list(range(54))


def test_turns_go_over_groups_and_within_one_over_its_images() -> None:
    ids = np.arange(1, 25)
    groups, images = np.arange(24) % 3, np.arange(24) % 6
    order = in_turns(ids, images, groups, ("a", "b", "c"), 1, "cold")
    assert sorted(order.tolist()) == list(range(24))
    for start in range(0, 24, 3):
        assert len(set(groups[order[start : start + 3]].tolist())) == 3
    for start in range(0, 24, 6):
        assert len(set(images[order[start : start + 6]].tolist())) == 6
    assert in_turns(ids[:0], images[:0], groups[:0], (), 1, "cold").tolist() == []


def test_the_name_of_a_group_decides_and_not_its_number() -> None:
    ids, images = np.arange(1, 13), np.arange(12)
    one = in_turns(ids, images, np.arange(12) % 3, ("a", "b", "c"), 1, "audit")
    other = in_turns(ids, images, np.arange(12) % 3 + 1, ("0", "a", "b", "c"), 1, "audit")
    assert one.tolist() == other.tolist()
