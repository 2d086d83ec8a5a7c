from __future__ import annotations

import json

import numpy as np
import pytest

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.tiling import Box
from mpamatch.experiments.simulation.oracle import Bought, answered, clicks_for, mean_clicks


def truth() -> np.ndarray:
    mask = np.zeros((60, 80), np.uint8)
    mask[10:40, 20:50] = 1
    return mask


def test_the_oracle_answers_inside_the_boxes_and_nowhere_else() -> None:
    known = answered(truth(), [Box(0, 0, 30, 20), Box(25, 15, 10, 40)])
    asked = np.zeros((60, 80), bool)
    asked[0:20, 0:30] = asked[15:55, 25:35] = True
    assert np.array_equal(known[asked], truth()[asked])
    assert (known[~asked] == IGNORE).all()
    assert np.array_equal(answered(truth(), [Box(0, 0, 80, 60)]), truth())
    assert (answered(truth(), []) == IGNORE).all()


def test_clicks_are_one_for_each_area_and_one_for_each_12_px_of_true_outline() -> None:
    assert clicks_for(truth(), None) == pytest.approx(1 + 120 / 12)
    assert clicks_for(truth(), Box(10, 0, 40, 20)) == pytest.approx(1 + (10 + 30) / 12), "the box's own sides are free"
    assert clicks_for(truth(), Box(25, 15, 10, 10)) == 1
    assert clicks_for(truth(), Box(60, 45, 10, 10)) == 1, "to say that nothing is there takes a click too"
    assert mean_clicks(truth(), [Box(25, 15, 10, 10), Box(0, 0, 80, 60)]) == pytest.approx(6)


def test_an_answer_comes_back_from_its_file_and_costs_3_seconds_and_1_1_for_each_click() -> None:
    one = Bought(3, Box(1, 2, 3, 4), 10.0, 2, "class", 0.5, 1.0, 0.25)
    assert Bought.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert one.seconds == pytest.approx(14.0)
