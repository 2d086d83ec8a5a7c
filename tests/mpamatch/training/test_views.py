from typing import get_args

import numpy as np
import pytest

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.recipe import Photometry
from mpamatch.training import views
from mpamatch.training.views import Tile, cutmix_box, photometric, weak_view
from tests.mpamatch.tissue import quick_recipe

LEVELS = [level for level in get_args(Photometry) if level != "none"]
FILL = np.array([10, 20, 30], np.uint8)


def _squares(height_px: int = 120, width_px: int = 150) -> Tile:
    """A mask that is the image's own colour, so that any shift between the two shows."""
    y, x = np.mgrid[:height_px, :width_px]
    mask = ((y // 24 + x // 24) % 2).astype(np.uint8)
    return Tile(np.where(mask[..., None] == 1, np.uint8(255), np.uint8(0)).repeat(3, axis=2), mask)


@pytest.mark.method_line(15)
def test_image_and_mask_stay_together_under_many_views() -> None:
    tile, recipe = _squares(), quick_recipe()
    for seed in range(200):
        view = weak_view(tile, recipe, np.random.default_rng(seed), FILL, supervised=True)
        sure = (view.image[..., 0] < 30) | (view.image[..., 0] > 225)
        sure &= ~view.pad
        assert ((view.image[..., 0] > 128) == (view.mask == 1))[sure].mean() > 0.99


def test_a_view_is_a_function_of_its_seed() -> None:
    tile, recipe = _squares(), quick_recipe()
    first, again, other = (
        weak_view(tile, recipe, np.random.default_rng(seed), FILL, supervised=False) for seed in (1, 1, 2)
    )
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size", [(1, 1), (20, 200), (40, 40)])
def test_a_tile_smaller_than_the_crop_is_padded_and_marked(size: tuple[int, int]) -> None:
    tile = Tile(np.full((*size, 3), 200, np.uint8), np.zeros(size, np.uint8))
    for seed in range(20):
        view = weak_view(tile, quick_recipe(), np.random.default_rng(seed), FILL, supervised=True)
        assert view.image.shape == (64, 64, 3)
        assert view.pad.any()
        assert (view.mask[view.pad] == IGNORE).all()
        assert (view.mask[~view.pad] == 0).all()


def test_a_supervised_crop_holds_a_labelled_pixel_wherever_it_lies() -> None:
    mask = np.full((400, 600), IGNORE, np.uint8)
    mask[380:390, 20:30] = 1
    tile = Tile(np.zeros((400, 600, 3), np.uint8), mask)
    for seed in range(100):
        view = weak_view(tile, quick_recipe(), np.random.default_rng(seed), FILL, supervised=True)
        assert (view.mask == 1).any()


def test_a_supervised_crop_does_not_always_centre_its_label() -> None:
    mask = np.full((300, 300), IGNORE, np.uint8)
    mask[150, 150] = 1
    tile = Tile(np.zeros((300, 300, 3), np.uint8), mask)
    recipe = quick_recipe(scale_min=1.0, scale_max=1.0)
    places = {
        tuple(np.argwhere(weak_view(tile, recipe, np.random.default_rng(s), FILL, supervised=True).mask == 1)[0])
        for s in range(30)
    }
    assert len(places) > 20


@pytest.mark.method_line(16)
@pytest.mark.parametrize("level", LEVELS)
def test_photometry_changes_the_image_within_bounds_and_by_its_seed(level: str) -> None:
    image = np.random.default_rng(0).integers(100, 220, (64, 64, 3)).astype(np.uint8)
    before = image.copy()
    first, again = (photometric(image, level, np.random.default_rng(3)) for _ in range(2))  # type: ignore[arg-type]
    assert np.array_equal(image, before)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, image)
    assert first.dtype == np.uint8


def test_strong_photometry_moves_colours_further_than_mild() -> None:
    image = np.random.default_rng(0).integers(100, 220, (32, 32, 3)).astype(np.uint8)

    def shift(level: str) -> float:
        views = [photometric(image, level, np.random.default_rng(s)) for s in range(60)]  # type: ignore[arg-type]
        return float(np.mean([np.abs(v.mean((0, 1)) - image.mean((0, 1))).mean() for v in views]))

    assert shift("none") == 0
    assert 0 < shift("mild") < shift("strong")


@pytest.mark.parametrize(
    ("level", "most"),
    [("um", (0.5, 0.5, 0.5, 0.25)), ("path", (0.3, 0.3, 0.2, 0.05)), ("strong", (0.3, 0.3, 0.3, 0.04))],
)
def test_colours_move_as_far_as_their_level_says_and_no_further(level: str, most: tuple[float, ...]) -> None:
    """Two halves of one colour, one lighter: what became of them tells brightness, contrast, saturation and hue."""
    to_rgb = np.linalg.inv(views._YIQ)
    dark, light = (to_rgb @ np.array([luma, 20.0, 10.0]) for luma in (90.0, 110.0))
    image = np.stack([np.tile(dark, (4, 1)), np.tile(light, (4, 1))]).astype(np.float32)
    found = []
    for seed in range(500):
        moved = views._colour_jitter(image, views._LEVELS[level], np.random.default_rng(seed))
        low, high = moved[:, 0] @ views._YIQ.T
        bright = (low[0] + high[0]) / 200
        contrast = (high[0] - low[0]) / 20 / bright
        was, now = complex(20, 10), complex(low[1], low[2])
        saturation = abs(now / was) / bright / contrast
        found.append((bright - 1, contrast - 1, saturation - 1, np.angle(now / was) / (2 * np.pi)))
    for bound, values in zip(most, np.array(found).T, strict=True):
        assert -bound * 1.001 <= values.min() < -0.95 * bound
        assert 0.95 * bound < values.max() <= bound * 1.001


@pytest.mark.parametrize("level", ["um", "path"])
def test_four_views_in_five_have_other_colours_one_in_five_has_none_and_half_are_blurred(level: str) -> None:
    image = np.full((16, 16, 3), (180, 100, 150), np.uint8)  # one colour, which a blur leaves as it is
    seen = [photometric(image, level, np.random.default_rng(seed)) for seed in range(1000)]  # type: ignore[arg-type]
    assert 0.12 < np.mean([np.array_equal(view, image) for view in seen]) < 0.20  # 0.2 without jitter, 0.8 not grey
    assert 0.16 < np.mean([np.ptp(view[0, 0]) == 0 for view in seen]) < 0.24
    halves = np.repeat(np.repeat(np.array([[[90], [160]]], np.uint8), 3, axis=2), 8, axis=1).repeat(16, axis=0)
    tones = [len(np.unique(photometric(halves, level, np.random.default_rng(s))[..., 0])) for s in range(500)]  # type: ignore[arg-type]
    assert 0.4 < np.mean(np.array(tones) > 2) < 0.55  # half are blurred, a few by too little to show


def test_stain_jitter_keeps_white_glass_nearly_white() -> None:
    white = np.full((16, 16, 3), 245, np.uint8)
    darkest = min(int(photometric(white, "mild", np.random.default_rng(s)).min()) for s in range(40))
    assert darkest > 150


@pytest.mark.method_line(19)
def test_cutmix_boxes_keep_within_the_crop_and_their_area() -> None:
    recipe = quick_recipe(cutmix_p=1.0)
    for seed in range(300):
        box = cutmix_box(recipe, np.random.default_rng(seed))
        assert box is not None
        assert 0 <= box.top < box.bottom <= 64
        assert 0 <= box.left < box.right <= 64
        height, width = box.bottom - box.top, box.right - box.left
        assert 0.01 < height * width / 64**2 <= 0.4
        # Whole pixels: a side is up to one shorter than drawn.
        assert 0.3 * width / (height + 1) <= 1
        assert 0.3 * height / (width + 1) <= 1


def test_cutmix_happens_as_often_as_asked() -> None:
    recipe = quick_recipe(cutmix_p=0.5)
    drawn = sum(cutmix_box(recipe, np.random.default_rng(s)) is not None for s in range(400))
    assert 150 < drawn < 250
    assert cutmix_box(quick_recipe(cutmix_p=0.0), np.random.default_rng(0)) is None
