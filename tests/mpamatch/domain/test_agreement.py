import numpy as np
import pytest

from mpamatch.domain.agreement import Pair, agreements, compare
from mpamatch.domain.reliability import Precision
from mpamatch.errors import BadInput

HOW = Precision(draws=200)


def disc(radius: int, *, size: int = 48) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return ((rows - size // 2) ** 2 + (columns - size // 2) ** 2 <= radius**2).astype(np.uint8)


def pair(tile: int, first: np.ndarray, second: np.ndarray, people=("a", "b"), blind=False) -> Pair:
    return Pair(tile, f"g{tile}", people, compare(first, second, 2), blind)


def test_only_pixels_that_both_looked_at_count() -> None:
    first, second = disc(15), disc(12)
    first[:10], second[:, :10], second[-4:] = 255, 255, 254
    both = (first < 254) & (second < 254)
    counts = compare(first, second, 2)
    assert counts.sum() == both.sum()
    assert counts[1, 0] == ((first == 1) & (second == 0) & both).sum()
    with pytest.raises(BadInput):
        compare(first, second[:4], 2)


def test_dice_is_of_the_masks_of_all_their_tiles_and_the_lowest_is_named() -> None:
    pairs = [pair(1, disc(15), disc(15)), pair(2, disc(15), disc(9)), pair(3, disc(15), disc(13), blind=True)]
    everybody, two = agreements(pairs, HOW, seed=1)
    a = np.stack([disc(15)] * 3)
    b = np.stack([disc(15), disc(9), disc(13)])
    expected = np.mean([2 * ((a == c) & (b == c)).sum() / ((a == c).sum() + (b == c).sum()) for c in (0, 1)])
    assert two.dice == pytest.approx(expected)
    assert (two.people, two.tiles, two.blind_tiles, two.bounds) == (("a", "b"), 3, 1, None)
    assert two.lowest is not None
    assert two.lowest[0] == 2
    assert (everybody.people, everybody.dice) == (None, two.dice)


def test_each_two_people_stand_alone_and_many_tiles_give_an_interval() -> None:
    pairs = [pair(n, disc(15), disc(15 - n % 3)) for n in range(9)]
    pairs += [pair(n, disc(15), disc(6), people=("b", "c")) for n in range(9)]
    everybody, first, second = agreements(pairs[::-1], HOW, seed=1)
    assert (first.people, second.people) == (("a", "b"), ("b", "c"))
    assert everybody.tiles == 9
    assert first.bounds is not None
    assert first.bounds[0] < first.dice < first.bounds[1]  # type: ignore[operator]
    assert second.dice < first.bounds[0]  # type: ignore[operator]
    assert agreements(pairs, HOW, seed=1) == (everybody, first, second)


def test_nothing_in_common_is_nothing_to_tell() -> None:
    nowhere = np.full((48, 48), 255, np.uint8)
    assert agreements([pair(1, disc(9), nowhere)], HOW, seed=1) == ()
    assert agreements([], HOW, seed=1) == ()
