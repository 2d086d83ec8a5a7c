from __future__ import annotations

import numpy as np
import pytest

from mpamatch.domain.classes import IGNORE
from mpamatch.domain.contours import Contours, contours_of


def disc(side: int, radius: float) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return ((y - side / 2 + 0.5) ** 2 + (x - side / 2 + 0.5) ** 2 < radius**2).astype(np.uint8)


def test_a_disc_s_outline_is_that_of_a_circle_and_not_of_its_steps() -> None:
    found = contours_of(disc(200, 60.0))
    assert found.areas == 1
    assert found.length_px == pytest.approx(2 * np.pi * 60, rel=0.03)
    assert contours_of(disc(200, 60.0), tolerance_px=0.0).length_px == pytest.approx(8 * 60, rel=0.03)


def test_what_lies_along_the_border_is_not_drawn() -> None:
    whole = np.ones((30, 50), np.uint8)
    assert contours_of(whole) == Contours(1, 0.0)
    half = whole.copy()
    half[:, 20:] = 0
    assert contours_of(half) == Contours(1, 30.0)
    quarters = contours_of(disc(200, 60.0)[:100, :100])
    assert quarters.length_px == pytest.approx(contours_of(disc(200, 60.0)).length_px / 4, rel=0.05)


def test_holes_and_every_area_of_every_class_count_and_the_unknown_does_not() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:25, 5:25] = 1
    mask[10:20, 10:20] = 0
    mask[5:25, 40:50] = 2
    mask[30:35, 5:10] = IGNORE
    assert contours_of(mask) == Contours(2, 4 * 20 + 4 * 10 + 60)
    assert contours_of(np.zeros((4, 4), np.uint8)) == Contours(0, 0.0)
