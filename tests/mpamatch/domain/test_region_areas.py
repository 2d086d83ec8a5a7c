import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mpamatch.domain.region_areas import Limits, areas_of

MARGIN = 12


def framed(cells: np.ndarray) -> np.ndarray:
    return np.pad(cells, MARGIN)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9999), st.integers(0, 7))
def test_bands_are_what_a_square_one_cell_wider_does_not_fit_in(seed: int, band: int) -> None:
    drawn = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((40, 40)), 2.0) > 0
    doubt = framed(drawn)
    closed = ndimage.binary_closing(doubt, np.ones((3, 3)))
    expected = ndimage.binary_opening(closed, np.ones((band + 1, band + 1)))
    labels, count = areas_of(doubt, None, np.zeros(doubt.shape, np.float32), Limits(1, 1000, band))
    assert np.array_equal(labels > 0, expected)
    assert count == ndimage.label(expected)[1]


@pytest.mark.parametrize("band", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("width", range(1, 8))
def test_a_band_as_wide_is_none_and_a_wider_one_is(band: int, width: int) -> None:
    doubt = np.zeros((40, 40), bool)
    doubt[10 : 10 + width, 5:35] = True
    for one in (doubt, doubt.T):
        labels, count = areas_of(one, None, np.zeros(one.shape, np.float32), Limits(1, 1000, band))
        assert count == (width > band)
        assert (labels > 0).sum() == (30 * width if width > band else 0)


@pytest.mark.parametrize("band", [1, 2, 3, 4, 5])
def test_all_borders_are_alike(band: int) -> None:
    doubt = np.zeros((30, 30), bool)
    doubt[: band // 2 + 1] = True
    counts = {
        areas_of(np.rot90(doubt, turns).copy(), None, np.zeros((30, 30), np.float32), Limits(1, 99, band))[1]
        for turns in range(4)
    }
    assert counts == {1}


def test_what_is_not_valid_is_in_no_area() -> None:
    doubt, valid = np.ones((20, 20), bool), np.zeros((20, 20), bool)
    valid[5:15, 5:12] = True
    labels, count = areas_of(doubt, valid, np.zeros((20, 20), np.float32), Limits(1, 99, 2))
    assert (count, (labels > 0).sum()) == (1, 70)
    assert not labels[~valid].any()
