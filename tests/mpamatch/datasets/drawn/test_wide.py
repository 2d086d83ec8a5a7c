"""Drawn tissue of wide variety: seeded, exact masks with instances, every growth and artefact met."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mpamatch.datasets.drawn.habit import draw_habit
from mpamatch.datasets.drawn.wide import DrawnTissue, draw_wide, draw_wide_tile
from mpamatch.errors import BadInput


def _check_masks(tile: DrawnTissue, size_px: int) -> None:
    assert tile.image.shape == (size_px, size_px, 3)
    assert tile.image.dtype == np.uint8
    assert tile.classes.shape == tile.instances.shape == (size_px, size_px)
    assert (tile.classes.dtype, tile.instances.dtype) == (np.uint8, np.uint16)
    assert set(np.unique(tile.classes)) <= {0, 1}
    assert ((tile.instances > 0) == (tile.classes == 1)).all()
    numbers = np.unique(tile.instances[tile.instances > 0])
    assert numbers.tolist() == list(range(1, len(numbers) + 1))
    for number in numbers:
        assert ndimage.label(tile.instances == number)[1] == 1


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**9), index=st.integers(0, 1000), size_px=st.sampled_from([16, 61, 128]))
def test_instances_are_connected_and_together_exactly_the_gland_class(seed: int, index: int, size_px: int) -> None:
    _check_masks(draw_wide_tile(seed, index, size_px), size_px)


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others() -> None:
    one, again, other = (list(draw_wide(seed, 3, 96)) for seed in (4, 4, 5))
    for first, second in zip(one, again, strict=True):
        assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert not (one[0].image == other[0].image).all()
    assert not (one[0].image == one[1].image).all()


def test_a_longer_set_begins_with_the_shorter_one() -> None:
    short, long = list(draw_wide(9, 2, 64)), list(draw_wide(9, 3, 64))
    assert all((a.image == b.image).all() for a, b in zip(short, long[:2], strict=True))


def test_drawing_leaves_numpys_global_randomness_alone() -> None:
    before = np.random.get_state()[1].tolist()  # noqa: NPY002 - the state that must stay
    draw_wide_tile(1, 0, 64)
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_every_growth_and_several_sizes_are_among_a_few_hundred_tiles() -> None:
    habits = [draw_habit(np.random.default_rng(seed)) for seed in range(300)]
    assert {h.growth for h in habits} == {"crypts", "tubes", "branching", "fused", "nests", "sheets", "none"}
    assert {h.mucin for h in habits} == {"none", "drops", "petals", "honeycomb"}
    scales = [h.scale for h in habits]
    assert min(scales) < 0.62
    assert max(scales) > 1.3


def test_some_glands_touch_and_stay_two() -> None:
    touching = 0
    for tile in draw_wide(2, 30, 128):
        right = (tile.instances[:, :-1], tile.instances[:, 1:])
        touching += bool(((right[0] != right[1]) & (right[0] > 0) & (right[1] > 0)).any())
    assert touching >= 2


def test_glands_are_cut_by_the_edge_of_the_tile() -> None:
    cut = [bool(tile.instances[0].any() or tile.instances[:, 0].any()) for tile in draw_wide(6, 12, 96)]
    assert sum(cut) > 6


@pytest.mark.parametrize("arguments", [(-1, 0, 64), (0, -1, 64), (0, 0, 8)])
def test_a_tile_that_cannot_be_drawn_is_bad_input(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(BadInput):
        draw_wide_tile(*arguments)


def test_a_tile_takes_a_fifth_of_a_second_of_one_core() -> None:
    draw_wide_tile(0)
    started = time.process_time()
    for _ in draw_wide(1, 10):
        pass
    # Twice what was measured, for a slower machine; a loop over pixels would take seconds.
    assert (time.process_time() - started) / 10 < 0.4


def test_folds_ink_bubbles_and_dust_never_change_the_mask() -> None:
    harmed = 0
    for index in range(60):
        found, unharmed = draw_wide_tile(11, index, 64), draw_wide_tile(11, index, 64, unharmed=True)
        assert (found.instances == unharmed.instances).all()
        harmed += bool(np.abs(found.image.astype(int) - unharmed.image).mean() > 10)
    assert harmed >= 3
