import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from mpamatch.domain.grids import cells_of, held, spread

sides = st.integers(1, 40)


@settings(max_examples=50, deadline=None)
@given(sides, sides, sides, sides)
def test_a_pixel_lies_in_the_cell_over_its_corner(height: int, width: int, rows: int, columns: int) -> None:
    found = cells_of(np.arange(height * width), (height, width), (rows, columns)).reshape(height, width)
    y, x = np.mgrid[:height, :width]
    assert (found == np.floor(y * rows / height) * columns + np.floor(x * columns / width)).all()
    cells = np.random.default_rng(rows * columns).random((rows, columns)) < 0.5
    assert (held(cells, (height, width)) == cells.ravel()[found]).all()


@settings(max_examples=50, deadline=None)
@given(sides, sides, st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_spread_is_bilinear_between_the_centres_of_cells(
    height: int, width: int, rows: int, columns: int, seed: int
) -> None:
    field = np.random.default_rng(seed).random((rows, columns)).astype(np.float32)
    y, x = np.mgrid[:height, :width]
    centres = [(y + 0.5) * rows / height - 0.5, (x + 0.5) * columns / width - 0.5]
    expected = map_coordinates(field.astype(np.float64), centres, order=1, mode="nearest")
    assert np.abs(spread(field, (height, width)) - expected).max() < 1e-5
