from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpamatch.domain.tiling import (
    Box,
    CellBlender,
    PatchBlender,
    patch_starts,
    raised_cosine_window,
    tile_boxes,
    tissue_mask,
)

SIDES = st.integers(1, 5000)


def test_an_image_of_up_to_one_and_a_half_tiles_is_one_tile() -> None:
    assert tile_boxes(1536, 1400) == (Box(0, 0, 1536, 1400),)
    assert tile_boxes(1537, 1400) == (Box(0, 0, 1024, 1400), Box(1024, 0, 513, 1400))


def test_the_scale_makes_tiles_larger_in_level_0_pixels() -> None:
    assert tile_boxes(4096, 4096, tile_px=1024, scale=2.0)[0] == Box(0, 0, 2048, 2048)
    assert tile_boxes(3000, 3000, tile_px=1024, scale=2.0) == (Box(0, 0, 3000, 3000),)


@given(SIDES, SIDES, st.integers(100, 1500), st.sampled_from([0.5, 1.0, 2.0, 3.7]))
@example(2100, 2100, 1024, 1.0)
def test_each_pixel_of_an_image_lies_in_exactly_one_tile(width: int, height: int, tile_px: int, scale: float) -> None:
    times = np.zeros((height, width), np.uint8)
    for b in tile_boxes(width, height, tile_px=tile_px, scale=scale):
        times[b.y_px : b.y_px + b.height_px, b.x_px : b.x_px + b.width_px] += 1
    assert (times == 1).all()


@given(SIDES, SIDES, st.integers(100, 1500), st.sampled_from([0.5, 1.0, 2.0, 3.7]))
def test_tiles_lie_in_the_image_come_in_one_order_and_are_neither_slivers_nor_too_large(
    width: int, height: int, tile_px: int, scale: float
) -> None:
    boxes = tile_boxes(width, height, tile_px=tile_px, scale=scale)
    tile_side = round(tile_px * scale)
    assert list(boxes) == sorted(boxes, key=lambda b: (b.y_px, b.x_px))
    assert sum(b.area_px for b in boxes) == width * height
    for start, length, side in (("x_px", "width_px", width), ("y_px", "height_px", height)):
        spans = sorted({(getattr(b, start), getattr(b, length)) for b in boxes})
        assert [at for at, _ in spans] == [tile_side * i for i in range(len(spans))]
        assert all(span == tile_side for _, span in spans[:-1])
        assert sum(span for _, span in spans) == side
        assert min(side, tile_side / 2) <= spans[-1][1] <= 1.5 * tile_side


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0)])
def test_an_empty_image_has_no_tiles(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        tile_boxes(*sizes)


def test_a_stride_beyond_the_patch_would_leave_gaps_and_is_refused() -> None:
    with pytest.raises(ValueError, match="stride"):
        patch_starts(100, 10, 11)


def glass(height: int = 64, width: int = 64) -> np.ndarray:
    noise = np.random.default_rng(0).normal(242, 2, (height, width, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


def test_glass_is_no_tissue_and_tissue_without_glass_is_all_tissue() -> None:
    pink = np.clip(np.random.default_rng(1).normal((215, 150, 190), 6, (64, 64, 3)), 0, 255).astype(np.uint8)
    assert tissue_mask(glass()).mean() < 0.01
    assert tissue_mask(pink).mean() > 0.99


def test_a_pale_section_on_glass_is_found_where_it_lies() -> None:
    image = glass()
    image[:, :16] = np.clip(np.random.default_rng(1).normal((228, 200, 220), 3, (64, 16, 3)), 0, 255)
    assert tissue_mask(image).mean() == pytest.approx(0.25, abs=0.02)
    assert tissue_mask(image)[:, :16].mean() > 0.95


def test_black_pen_and_borders_are_no_tissue() -> None:
    assert tissue_mask(np.full((8, 8, 3), (12, 2, 2), np.uint8)).mean() == 0.0


def test_windows_at_half_a_patch_add_up_to_a_constant() -> None:
    window = raised_cosine_window(32, 32)[:, 16]
    total = window[16:] + window[:16]
    assert total == pytest.approx(np.full(16, total[0]), rel=1e-3)
    assert raised_cosine_window(7, 5).min() > 0


@pytest.mark.method_line(46)
@pytest.mark.parametrize(("height", "width", "patch"), [(60, 45, 16), (7, 60, 4), (33, 33, 32), (1, 1, 8)])
def test_a_constant_stays_constant_and_has_no_seam(height: int, width: int, patch: int) -> None:
    blender = PatchBlender(2, height, width)
    value = np.float32([0.3, 0.7])[:, None, None]
    for y in patch_starts(height, patch, max(1, patch // 2)):
        for x in patch_starts(width, patch, max(1, patch // 2)):
            blender.add(y, x, np.broadcast_to(value, (2, patch, patch)))
    assert np.abs(blender.result() - value).max() < 1e-5


@pytest.mark.method_line(46)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(4, 32))
def test_blending_patches_of_one_raster_gives_the_raster(height: int, width: int, patch: int) -> None:
    whole = np.random.default_rng(height * 61 + width).random((2, height, width)).astype(np.float32)
    padded = np.pad(whole, ((0, 0), (0, patch), (0, patch)))
    blender = PatchBlender(2, height, width)
    for y in patch_starts(height, patch, max(1, patch // 2)):
        for x in patch_starts(width, patch, max(1, patch // 2)):
            blender.add(y, x, padded[:, y : y + patch, x : x + patch])
    assert blender.result() == pytest.approx(whole, abs=1e-5)


def test_a_pixel_that_no_patch_covered_is_an_error() -> None:
    blender = PatchBlender(2, 8, 8)
    blender.add(0, 0, np.zeros((2, 4, 8), np.float32))
    with pytest.raises(ValueError, match="cover"):
        blender.result()


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([32, 64, 96]), st.sampled_from([32, 16, 4, 1, 9]))
def test_cells_of_patches_make_a_map_of_the_whole_image(height: int, width: int, patch: int, cells: int) -> None:
    """Each cell of a patch says where in the image its middle lies; the blended map says so too, within a cell."""
    blender = CellBlender(height, width)
    middles = (np.arange(cells) + 0.5) * patch / cells
    for y in patch_starts(height, patch, patch // 2):
        for x in patch_starts(width, patch, patch // 2):
            blender.add(y, x, patch, np.stack(np.meshgrid(y + middles, x + middles, indexing="ij")).astype(np.float32))
    found = blender.result()
    side = patch / cells
    for axis, length in ((1, height), (2, width)):
        count = found.shape[axis]
        assert count == max(1, int(length / side + 0.5))
        expected = (np.arange(count) + 0.5) * side
        difference = found[axis - 1] - (expected[:, None] if axis == 1 else expected)
        assert np.abs(difference).max() <= side / 2 + 1e-3


def test_a_map_of_no_patch_is_an_error() -> None:
    with pytest.raises(ValueError, match="no patch"):
        CellBlender(8, 8).result()
