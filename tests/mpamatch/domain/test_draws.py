from __future__ import annotations

import numpy as np
from scipy import stats

from mpamatch.domain.draws import hash_draw, uniform_draws

IDS = np.arange(20_000, dtype=np.int64)


def test_draws_look_uniform_and_stay_inside_the_open_interval():
    draws = uniform_draws(3, "noise", 1, IDS)
    assert draws.min() > 0
    assert draws.max() < 1
    assert stats.kstest(draws, "uniform").pvalue > 0.001


def test_a_draw_belongs_to_its_id_whatever_else_is_drawn():
    whole = uniform_draws(3, "noise", 1, IDS)
    assert (uniform_draws(3, "noise", 1, IDS[5000::7]) == whole[5000::7]).all()
    assert uniform_draws(3, "noise", 1, IDS[123:124])[0] == whole[123]


def test_seed_purpose_and_round_each_give_other_draws():
    base = uniform_draws(3, "noise", 1, IDS)
    for other in (
        uniform_draws(4, "noise", 1, IDS),
        uniform_draws(3, "cold", 1, IDS),
        uniform_draws(3, "noise", 2, IDS),
    ):
        assert abs(np.corrcoef(base, other)[0, 1]) < 0.03


def test_a_name_with_odd_characters_has_a_draw_too():
    assert hash_draw(0, "group", "case \udce9/../ä") != hash_draw(0, "group", "case")
