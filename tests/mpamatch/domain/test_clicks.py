import numpy as np
import pytest

from mpamatch.domain.clicks import clicks_to_correct as correct_by
from mpamatch.domain.clicks import clicks_to_draw as draw_by
from mpamatch.domain.cost import CostModel


def clicks_to_draw(mask: np.ndarray) -> float:
    return draw_by(mask, CostModel())


def clicks_to_correct(shown: np.ndarray, mask: np.ndarray) -> float:
    return correct_by(shown, mask, CostModel())


def square(side: int, at: int = 10, size: int = 64) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[at : at + side, at : at + side] = 1
    return mask


def test_drawing_costs_a_click_for_each_area_and_one_for_every_twelve_pixels_of_outline() -> None:
    assert clicks_to_draw(square(24)) == pytest.approx(1 + 96 / 12)
    two = square(12, 5)
    two[40:52, 40:52] = 2
    assert clicks_to_draw(two) == pytest.approx(2 + 96 / 12)
    ring = square(36)
    ring[16:28, 16:28] = 0
    assert clicks_to_draw(ring) == pytest.approx(1 + (144 + 48) / 12)
    assert clicks_to_draw(np.full((8, 8), 255, np.uint8)) == 0


def test_correcting_costs_what_differs_where_the_mask_says_something() -> None:
    shown = square(24)
    assert clicks_to_correct(shown, shown) == 0
    assert clicks_to_correct(shown, np.zeros_like(shown)) == pytest.approx(1 + 0.5 * 96 / 12)
    moved = square(24)
    moved[10:34, 34:36] = 1  # the right side, two pixels further: a strip of 24 x 2 px
    assert clicks_to_correct(shown, moved) == pytest.approx(1 + 0.5 * 52 / 12, abs=0.3)
    elsewhere = np.full_like(shown, 255)
    elsewhere[:8] = 0
    assert clicks_to_correct(shown, elsewhere) == 0


def test_correcting_a_good_suggestion_costs_less_than_drawing_anew() -> None:
    rows, columns = np.mgrid[:128, :128]
    truth = ((rows - 64) ** 2 + (columns - 64) ** 2 < 40**2).astype(np.uint8)
    shown = truth * ((rows - 64) ** 2 + (columns - 110) ** 2 > 20**2)  # with a bite out of it
    assert 0 < clicks_to_correct(shown, truth) < clicks_to_draw(truth)


def test_what_an_outline_takes_is_the_cost_models() -> None:
    cost = CostModel(px_per_click=6.0, correction_share=0.25)
    assert draw_by(square(24), cost) == pytest.approx(1 + 96 / 6)
    assert correct_by(square(24), np.zeros((64, 64), np.uint8), cost) == pytest.approx(1 + 0.25 * 96 / 6)
