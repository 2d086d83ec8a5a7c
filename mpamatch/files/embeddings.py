"""Embeddings as bytes: one matrix in half precision in NumPy's own format, read without pickle."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
import numpy.typing as npt

from mpamatch.errors import BadInput

Embeddings = npt.NDArray[np.float16]

MOST_NUMBERS = 10_000_000


def encode_embeddings(rows: npt.NDArray[np.floating]) -> bytes:
    """Rows (N, D) as bytes; the same rows give the same bytes. Raises ValueError for anything but finite rows."""
    if rows.ndim != 2 or 0 in rows.shape or not np.isfinite(rows).all():
        raise ValueError(f"finite rows (N, D) are needed, got {rows.shape}")
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(rows, dtype=np.float16), allow_pickle=False)
    return buffer.getvalue()


def decode_embeddings(data: bytes) -> Embeddings:
    """The inverse of :func:`encode_embeddings`, float16 (N, D). Raises BadInput for anything else."""
    remedy = "make the prediction again"
    end = 10 + int.from_bytes(data[8:10], "little")  # magic, version, length of the header
    try:
        shape, fortran, dtype = _header(data[:end])
    except (ValueError, EOFError) as error:
        raise BadInput("embeddings", f"damaged ({error})", remedy) from error
    if len(shape) != 2 or fortran or dtype != np.float16 or not 0 < shape[0] * shape[1] <= MOST_NUMBERS:
        raise BadInput("embeddings", f"of {dtype} {shape}, not float16 (N, D)", remedy)
    numbers = data[end:]
    if len(numbers) != 2 * shape[0] * shape[1]:
        raise BadInput("embeddings", f"{len(numbers)} bytes for {shape}", remedy)
    return np.frombuffer(numbers, np.float16).reshape(shape)


@functools.lru_cache(maxsize=1024)
def _header(data: bytes) -> tuple[tuple[int, ...], bool, Any]:
    """Shape, order and type. Thousands of embeddings have the same few headers, and reading one takes longer than all
    the rest."""
    buffer = io.BytesIO(data)
    if np.lib.format.read_magic(buffer) != (1, 0):
        return (), True, None
    return np.lib.format.read_array_header_1_0(buffer)
