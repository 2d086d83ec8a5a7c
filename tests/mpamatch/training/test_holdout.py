from pathlib import Path

import pytest

from mpamatch.training.batches import Sample
from mpamatch.training.holdout import choose_holdout

pytestmark = pytest.mark.torch
BOTH = frozenset({0, 1})


def _samples(groups: list[str]) -> list[Sample]:
    return [Sample(tile, group, Path("x")) for tile, group in enumerate(groups)]


def _classes(samples: list[Sample]) -> dict[int, frozenset[int]]:
    return {s.tile: BOTH for s in samples}


def test_fewer_than_four_tiles_keep_nothing_back() -> None:
    samples = _samples(["a", "b", "c"])
    holdout = choose_holdout(samples, _classes(samples), 0.2)
    assert (holdout.by, holdout.kept) == ("none", frozenset())


def test_a_fifth_of_the_groups_is_kept_whole() -> None:
    samples = _samples([f"patient {n % 10}" for n in range(40)])
    holdout = choose_holdout(samples, _classes(samples), 0.2)
    groups = {s.group for s in samples if s.tile in holdout.kept}
    assert (holdout.by, holdout.units, len(groups), len(holdout.kept)) == ("group", 2, 2, 8)


def test_tiles_are_drawn_while_there_are_fewer_than_four_groups() -> None:
    samples = _samples(["a"] * 5 + ["b"] * 5)
    holdout = choose_holdout(samples, _classes(samples), 0.2)
    assert (holdout.by, len(holdout.kept)) == ("tile", 2)


def test_the_order_of_the_tiles_does_not_matter() -> None:
    samples = _samples([f"patient {n}" for n in range(12)])
    assert choose_holdout(samples, _classes(samples), 0.2) == choose_holdout(samples[::-1], _classes(samples), 0.2)


def test_a_few_more_groups_hardly_move_what_is_kept() -> None:
    few = _samples([f"patient {n}" for n in range(20)])
    more = _samples([f"patient {n}" for n in range(25)])
    kept = [
        {s.group for s in samples if s.tile in choose_holdout(samples, _classes(samples), 0.2).kept}
        for samples in (few, more)
    ]
    assert len(kept[0] & kept[1]) >= len(kept[0]) - 2


def test_the_only_tile_of_a_class_stays_in_training() -> None:
    samples = _samples([f"patient {n}" for n in range(5)])
    plain = choose_holdout(samples, _classes(samples), 0.2)
    (kept,) = plain.kept
    rare = _classes(samples) | {kept: frozenset({0, 1, 2})}
    assert kept not in choose_holdout(samples, rare, 0.2).kept
    assert len(choose_holdout(samples, rare, 0.2).kept) == 1


def test_no_share_keeps_nothing_back() -> None:
    samples = _samples([f"patient {n}" for n in range(9)])
    assert choose_holdout(samples, _classes(samples), 0.0).by == "none"
