from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpamatch.errors import BadInput
from mpamatch.files.embeddings import decode_embeddings, encode_embeddings


@given(st.integers(1, 20), st.integers(1, 50), st.integers(0, 99))
def test_what_is_written_is_read_in_half_precision(count: int, width: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    data = encode_embeddings(rows)
    assert data == encode_embeddings(np.asfortranarray(rows))
    found = decode_embeddings(data)
    assert found.dtype == np.float16
    assert np.array_equal(found, rows.astype(np.float16))
    assert np.array_equal(np.load(io.BytesIO(data), allow_pickle=False), found)


@pytest.mark.parametrize("rows", [np.zeros(3), np.zeros((0, 3)), np.full((1, 2), np.nan), np.zeros((1, 2, 3))])
def test_no_rows_of_numbers_are_written(rows: np.ndarray) -> None:
    with pytest.raises(ValueError, match="finite rows"):
        encode_embeddings(rows)


def saved(array: np.ndarray, **how: bool) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **how)
    return buffer.getvalue()


GOOD = saved(np.zeros((3, 4), np.float16))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no array",
        GOOD[:20],
        GOOD[:-1],
        GOOD + b"x",
        GOOD.replace(b"(3, 4)", b"(9, 9)"),
        GOOD.replace(b"(3, 4)", b"(-3, 4)"),
        saved(np.zeros((3, 4), np.float32)),
        saved(np.zeros((0, 4), np.float16)),
        saved(np.zeros(4, np.float16)),
        saved(np.asfortranarray(np.zeros((3, 4), np.float16))),
        saved(np.array([[{}]], object), allow_pickle=True),
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(BadInput, match="embeddings"):
        decode_embeddings(data)
