import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely.geometry import Polygon, box

from mpamatch.domain.region_means import mean_inside


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.sampled_from([(64, 64), (100, 60), (37, 91)]))
def test_it_is_the_mean_over_the_cells_that_the_outline_touches(seed: int, size_px: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    field = rng.random((9, 11)).astype(np.float32)
    shape = Polygon(rng.uniform((0, 0), size_px, (3, 2)))
    width, height = size_px[0] / 11, size_px[1] / 9
    touched = [
        field[y, x]
        for y in range(9)
        for x in range(11)
        if box(x * width, y * height, (x + 1) * width, (y + 1) * height).intersection(shape).area > 1e-6
    ]
    found = mean_inside(field, [list(shape.exterior.coords)], size_px)
    assert found == pytest.approx(float(np.mean(touched)), abs=0.08)


def test_a_hole_does_not_count_and_the_smallest_outline_has_its_cell() -> None:
    field = np.zeros((8, 8), np.float32)
    field[2:6, 2:6] = 1.0
    whole = [(0, 0), (64, 0), (64, 64), (0, 64), (0, 0)]
    hole = [(8, 8), (56, 8), (56, 56), (8, 56), (8, 8)]
    assert mean_inside(field, [whole], (64, 64)) == pytest.approx(16 / 64)
    assert mean_inside(field, [whole, hole], (64, 64)) < 0.05
    assert mean_inside(field, [[(20, 20), (21, 20), (21, 21), (20, 20)]], (64, 64)) == 1.0
