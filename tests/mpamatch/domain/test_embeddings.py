import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpamatch.domain.embeddings import embedding_of_tile, embeddings_of_areas, joined


def maps(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return (
        rng.standard_normal((6, 8, 9)).astype(np.float32),
        10 * rng.standard_normal((4, 3, 2)).astype(np.float32),
    )


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_an_area_is_the_mean_of_the_cells_below_its_pixels(seed: int) -> None:
    fine, coarse = maps(seed)
    labels = np.random.default_rng(seed + 1).integers(0, 4, (20, 17))
    places = np.flatnonzero(labels)
    found = embeddings_of_areas((fine, coarse), labels.ravel()[places] - 1, places, 3, (20, 17))
    for area in range(3):
        below = [
            [field[:, y * field.shape[1] // 20, x * field.shape[2] // 17] for y, x in np.argwhere(labels == area + 1)]
            for field in (fine, coarse)
        ]
        expected = np.concatenate([unit(np.mean(cells, axis=0)) for cells in below]) / np.sqrt(2)
        assert found[area] == pytest.approx(expected, abs=1e-5)


def test_the_tile_is_the_mean_of_all_cells() -> None:
    fine, coarse = maps(0)
    expected = np.concatenate([unit(field.reshape(len(field), -1).mean(axis=1)) for field in (fine, coarse)])
    assert embedding_of_tile((fine, coarse)) == pytest.approx(expected / np.sqrt(2), abs=1e-6)
    assert np.linalg.norm(embedding_of_tile((fine,))) == pytest.approx(1)


def test_the_cosine_of_the_whole_is_the_mean_of_those_of_the_parts() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.standard_normal((5, 3)), rng.standard_normal((5, 7)) * 100
    whole = joined([first, second])
    parts = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (first, second)]
    assert whole @ whole.T == pytest.approx(np.mean([part @ part.T for part in parts], axis=0), abs=1e-5)


def test_a_part_without_length_stays_nothing() -> None:
    whole = joined([np.zeros((1, 3)), np.ones((1, 4))])
    assert np.isfinite(whole).all()
    assert (whole[0, :3] == 0).all()
