"""Bare glass and what only looks like it: lumina, whole or cut by the tile, clefts, pale stroma, dust."""

import numpy as np
import pytest

from mpamatch.domain.glass import tissue_area
from mpamatch.domain.tiling import tissue_mask

GLASS, STROMA, PALE = (243, 241, 244), (215, 165, 200), (236, 216, 230)


def tile(side: int = 256) -> np.ndarray:
    """Stroma everywhere, with the noise of a camera."""
    return painted(np.zeros((side, side, 3), np.uint8), np.ones((side, side), bool), STROMA)


def painted(image: np.ndarray, where: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    image = image.copy()
    noise = np.random.default_rng(int(where.sum())).integers(-3, 4, image.shape)
    image[where] = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)[where]
    return image


def disc(x: float, y: float, radius: float, side: int = 256) -> np.ndarray:
    rows, columns = np.mgrid[:side, :side]
    return np.hypot(rows - y, columns - x) < radius


def share_on(image: np.ndarray, where: np.ndarray) -> float:
    """How much of some pixels counts as tissue."""
    area = tissue_area(image)
    rows, columns = (np.arange(side) * n // side for side, n in zip(where.shape, area.shape, strict=True))
    return float(area[rows][:, columns][where].mean())


@pytest.mark.parametrize(("x", "y", "radius"), [(128, 128, 10), (128, 128, 100), (0, 128, 40), (128, 250, 30)], ids=str)
def test_a_lumen_is_tissue_also_where_the_tile_cuts_it(x: int, y: int, radius: int) -> None:
    lumen = disc(x, y, radius)
    assert share_on(painted(tile(), lumen, GLASS), lumen) == 1


def test_a_cleft_across_the_tile_is_tissue() -> None:
    rows, columns = np.mgrid[:256, :256]
    cleft = np.abs(rows - 100 - columns // 4) < 12
    assert share_on(painted(tile(), cleft, GLASS), cleft) == 1


@pytest.mark.parametrize("edge", ["straight", "slanting", "ragged", "corner"])
def test_the_field_beside_a_section_is_glass(edge: str) -> None:
    rows, columns = np.mgrid[:256, :256]
    ragged = 100 + 30 * np.sin(rows / 6) + 12 * np.sin(rows / 2.5)
    beside = {
        "straight": columns < 90,
        "slanting": columns + rows / 2 < 150,
        "ragged": columns < ragged,
        "corner": columns + rows < 140,
    }[edge]
    image = painted(tile(), beside, GLASS)
    assert share_on(image, beside) < 0.1
    assert share_on(image, ~beside) > 0.95


def test_dust_on_the_glass_is_no_tissue_and_makes_no_lumen_of_it() -> None:
    _, columns = np.mgrid[:256, :256]
    beside = columns < 128
    image = painted(tile(), beside, GLASS)
    for number, (y, x) in enumerate(np.random.default_rng(0).integers(5, 120, (40, 2))):
        image[y : y + 2 + number % 2, x : x + 2] = (90, 60, 90)
    assert share_on(image, beside) < 0.05


def test_pale_stroma_is_tissue_where_otsu_would_part_it_from_dark_epithelium() -> None:
    dark = disc(60, 60, 40) | disc(190, 180, 50)
    image = painted(painted(tile(), np.ones((256, 256), bool), PALE), dark, (90, 40, 120))
    assert tissue_mask(image)[~dark].mean() < 0.1
    assert share_on(image, ~dark) == 1


def test_an_image_without_colours_is_judged_by_nothing() -> None:
    grey = np.repeat(np.random.default_rng(0).integers(0, 256, (90, 70, 1), dtype=np.uint8), 3, axis=2)
    assert tissue_area(grey).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (3, 2), (255, 257), (1024, 600)])
def test_any_size_has_its_grid(shape: tuple[int, int]) -> None:
    area = tissue_area(np.full((*shape, 3), STROMA, np.uint8))
    assert area.all()
    assert max(area.shape) <= 129
