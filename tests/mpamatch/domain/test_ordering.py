from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpamatch.domain.ordering import ascending_scores
from mpamatch.errors import BadInput


def _natural(count: int) -> list[float]:
    return [(k + 1) / (count + 1) for k in range(count)]


present_scores = st.lists(st.one_of(st.none(), st.floats(0.001, 0.999)), max_size=60)


@given(present_scores)
def test_scores_always_ascend_within_zero_and_one(present: list[float | None]) -> None:
    scores = ascending_scores(present, _natural(len(present)))
    assert all(a < b for a, b in pairwise([0.0, *scores, 1.0]))


@given(st.sets(st.floats(0.001, 0.999), max_size=40))
def test_an_order_that_holds_is_left_alone(values: set[float]) -> None:
    present = [round(v, 6) for v in sorted({round(v, 6) for v in values})]
    assert list(ascending_scores(present, _natural(len(present)))) == present


@given(st.permutations(range(12)))
def test_only_what_breaks_the_order_changes(order: list[int]) -> None:
    present = [(k + 1) / 20 for k in order]
    scores = ascending_scores(present, _natural(12))
    longest = max(len(s) for s in _ascending_parts(order))
    assert sum(a == b for a, b in zip(scores, present, strict=True)) >= longest


def _ascending_parts(order: list[int]) -> list[list[int]]:
    best: list[list[int]] = []
    for value in order:
        best.append(max(([*s, value] for s in best if s[-1] < value), key=len, default=[value]))
    return best


def test_new_places_take_their_natural_scores_where_these_fit() -> None:
    assert ascending_scores((None, None), (0.25, 0.5)) == (0.25, 0.5)
    assert ascending_scores((0.1, None), (0.25, 0.5)) == (0.1, 0.5)


def test_room_that_has_run_out_is_made_anew() -> None:
    present = [0.5, None, 0.5 + 1e-10]
    assert ascending_scores(present, (0.25, 0.5, 0.75)) == (0.25, 0.5, 0.75)


def test_natural_scores_must_ascend() -> None:
    with pytest.raises(BadInput):
        ascending_scores((None, None), (0.5, 0.5))
