from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpamatch.domain.resampling import draw_weights, drawn_units, interval

GROUPS = st.lists(st.sampled_from("abcde"), min_size=1, max_size=12).map(sorted)


@given(GROUPS, st.integers(0, 9))
def test_each_draw_takes_as_many_tiles_from_a_group_as_it_holds_for_each_time_it_is_drawn(groups, seed) -> None:
    weights = draw_weights(groups, 20, np.random.default_rng(seed))
    sizes = [len(list(members)) for _, members in groupby(groups)]
    ends = np.cumsum(sizes)
    times = np.stack([weights[:, e - n : e].sum(axis=1) / n for e, n in zip(ends, sizes, strict=True)], axis=1)
    assert (times == np.rint(times)).all()
    assert (times.sum(axis=1) == len(sizes)).all()


def test_tiles_are_drawn_one_by_one_only_while_there_are_few_groups() -> None:
    assert drawn_units(["a", "a", "b", "c"]) == ("tile", ["0", "1", "2", "3"])
    assert drawn_units(["a", "b", "c", "d", "d"]) == ("group", ["a", "b", "c", "d", "d"])


def test_an_interval_leaves_out_what_is_not_known() -> None:
    assert interval(np.array([np.nan, np.nan]), 0.9) is None
    low, high = interval(np.array([*np.arange(101.0), np.nan]), 0.9) or (0, 0)
    assert (low, high) == pytest.approx((5.0, 95.0))
