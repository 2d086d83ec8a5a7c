from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mpamatch.domain import masks
from mpamatch.domain.tiling import Box

ANY_MASK = hnp.arrays(
    np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20)), elements=st.sampled_from([0, 1, 2, 255])
)


def test_a_newer_mask_wins_where_it_says_something() -> None:
    older, newer = np.array([[0, 1, 255]], np.uint8), np.array([[255, 0, 255]], np.uint8)
    assert masks.combine(older, newer).tolist() == [[0, 0, 255]]
    with pytest.raises(ValueError, match="combined"):
        masks.combine(older, newer.T)


def test_painting_leaves_the_given_mask_alone() -> None:
    mask = masks.unsupervised(3, 1)
    painted = masks.paint(mask, np.array([[True, False, True]]), 2)
    assert painted.tolist() == [[2, 255, 2]]
    assert (mask == 255).all()


def test_a_crop_is_a_copy_of_the_box() -> None:
    mask = np.arange(12, dtype=np.uint8).reshape(3, 4)
    part = masks.crop(mask, Box(1, 1, 2, 2))
    part[:] = 9
    assert mask[1, 1] == 5


@given(ANY_MASK, st.integers(1, 4))
def test_resampling_invents_no_id_and_enlarging_is_undone_by_reducing(mask: np.ndarray, factor: int) -> None:
    height, width = mask.shape
    larger = masks.resample(mask, width * factor, height * factor)
    assert set(np.unique(larger)) == set(np.unique(mask))
    assert np.array_equal(masks.resample(larger, width, height), mask)
    assert np.array_equal(larger[::factor, ::factor], mask)


@given(ANY_MASK)
def test_the_reviewed_share_counts_pixels(mask: np.ndarray) -> None:
    assert masks.reviewed_share(mask) == pytest.approx((mask != 255).sum() / mask.size)


def test_reducing_takes_the_pixel_at_the_centre() -> None:
    row = np.array([[0, 1, 2, 3]], np.uint8)
    assert masks.resample(row, 2, 1).tolist() == [[1, 3]]
    assert masks.resample(row, 1, 1).tolist() == [[2]]
