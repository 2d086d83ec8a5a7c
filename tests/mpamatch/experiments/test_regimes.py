import numpy as np
import pytest

from mpamatch.domain.classes import IGNORE
from mpamatch.errors import BadInput
from mpamatch.experiments.regimes import boxed, labelled_count


def disc(side_px: int = 200) -> np.ndarray:
    y, x = np.mgrid[:side_px, :side_px]
    return (np.hypot(y - side_px / 2, x - side_px / 2) < side_px / 4).astype(np.uint8)


def test_boxes_show_both_classes_and_hide_the_rest() -> None:
    mask = disc()
    before = mask.copy()
    for seed in range(20):
        found = boxed(mask, side_px=32, rng=np.random.default_rng(seed), boxes=1)
        seen = found != IGNORE
        assert seen.sum() == 32 * 32
        assert (found[seen] == mask[seen]).all()
        assert 0.2 <= found[seen].mean() <= 0.8
    assert (mask == before).all()


def test_boxes_follow_their_seed() -> None:
    first, again, other = (boxed(disc(), side_px=32, rng=np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_where_no_box_holds_both_classes_the_nearest_is_taken() -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[28:32, 38:42] = 1  # at most 16 of 1024 pixels
    found = boxed(mask, side_px=32, rng=np.random.default_rng(0), boxes=1)
    assert (found == 1).sum() == 16
    assert (found != IGNORE).sum() == 32 * 32


def test_a_box_larger_than_the_mask_is_the_mask() -> None:
    mask = disc(20)
    assert (boxed(mask, side_px=64, rng=np.random.default_rng(0)) == mask).all()


def test_pixels_that_nobody_labelled_stay_unlabelled() -> None:
    mask = disc()
    mask[:, 100:] = IGNORE
    found = boxed(mask, side_px=32, rng=np.random.default_rng(0))
    assert (found[:, 100:] == IGNORE).all()
    assert (found != IGNORE).any()


@pytest.mark.parametrize(
    ("regime", "dataset", "asked", "share", "count"),
    [
        ("few", "glas", None, None, 4),
        ("shift", "glas", None, None, 4),
        ("few", "ebhi", None, None, 16),
        ("few", "ebhi-gland", None, None, 16),
        ("few", "folder", None, None, 3),
        ("few", "glas", 9, None, 9),
        ("many", "glas", None, None, 17),
        ("sparse", "glas", None, None, 34),
        ("few", "glas", 9, 0.5, 17),
        ("few", "glas", None, 0.001, 1),
    ],
)
def test_how_many_images_are_labelled(
    regime: str, dataset: str, asked: int | None, share: float | None, count: int
) -> None:
    assert labelled_count(regime, dataset, 34, asked=asked, share=share) == count


def test_more_labels_than_images_and_unknown_regimes_are_refused() -> None:
    for regime, asked in (("few", 35), ("plenty", None)):
        with pytest.raises(BadInput):
            labelled_count(regime, "glas", 34, asked=asked, share=None)
