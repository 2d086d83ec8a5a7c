from __future__ import annotations

import numpy as np
import pytest

from mpamatch.domain.novelty import TileEmbeddings, cosines, distances, unit
from mpamatch.errors import BadInput


def test_blocks_give_what_one_product_would() -> None:
    rng = np.random.default_rng(0)
    rows, others = unit(rng.normal(size=(5000, 16))), unit(rng.normal(size=(300, 16)))
    whole = np.array([max(float(np.dot(row, other)) for other in others) for row in rows[:50].astype(np.float64)])
    assert cosines(rows, others)[:50] == pytest.approx(whole, abs=1e-5)
    assert cosines(rows, others) == pytest.approx((rows @ others.T).max(axis=1), abs=1e-5)
    assert distances(rows, others) == pytest.approx(1 - cosines(rows, others))


def test_nothing_labelled_is_no_distance() -> None:
    rows = unit(np.eye(3))
    assert np.isnan(distances(rows, rows[:0])).all()
    assert cosines(rows, rows[:0]).tolist() == [-1, -1, -1]


def test_what_is_the_same_is_at_no_distance() -> None:
    rows = unit(np.random.default_rng(1).normal(size=(40, 384)))
    assert distances(rows, rows).tolist() == [0.0] * 40


def test_embeddings_are_brought_to_length_one_and_zeros_stay() -> None:
    found = TileEmbeddings(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32), np.array([0, 1, 2])).checked(2)
    assert np.linalg.norm(found.vectors, axis=1).tolist() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    ("vectors", "starts"),
    [([[1.0, 0.0]], [0, 1]), ([[1.0, 0.0]], [0, 1, 2]), ([[np.nan, 0.0]], [0, 0, 1]), ([1.0, 0.0], [0, 1, 2])],
)
def test_embeddings_of_other_tiles_or_of_no_numbers_are_refused(vectors: list, starts: list) -> None:
    with pytest.raises(BadInput, match="embeddings"):
        TileEmbeddings(np.array(vectors, np.float32), np.array(starts)).checked(2)
