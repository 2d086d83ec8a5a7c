"""Vectors of texts on disk: tables that a person brings from any encoder, and the cache of plain embeddings.

Both are npz files of plain arrays, read without pickle. A table says which texts it holds and who made it, and a digest
ties the two together; a cached file says which key it was made for and is made anew under any other.
"""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mpamatch.errors import BadInput, NotFound

Array = npt.NDArray[np.float32]


def save_table(path: Path, names: Sequence[str], prompts: Sequence[str], vectors: npt.ArrayLike, provider: str) -> None:
    """Write a table: row i of ``vectors`` (n, d) is the text ``prompts[i]`` of the class ``names[i]``."""
    rows = np.asarray(vectors, dtype=np.float32)
    digest = _digest(names, prompts, rows, provider)
    arrays = {"names": np.array(names), "prompts": np.array(prompts), "provider": np.array(provider)}
    np.savez(path, vectors=rows, sha256=np.array(digest), **arrays)  # type: ignore[arg-type]


def read_table(path: Path) -> tuple[dict[str, Array], str, str]:
    """Vectors by text, the provider, and the digest of the whole. Raises NotFound or BadInput."""
    if not path.is_file():
        raise NotFound(str(path), "no such table of texts", "name an npz file as in docs/text.md")
    try:
        with np.load(path, allow_pickle=False) as stored:
            names, prompts = stored["names"].astype(str).tolist(), stored["prompts"].astype(str).tolist()
            vectors, provider, digest = stored["vectors"], str(stored["provider"]), str(stored["sha256"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        problem = "not a table of names, prompts, vectors, provider and sha256"
        raise BadInput(str(path), problem, "write it with save_table") from error
    if vectors.dtype != np.float32 or vectors.ndim != 2 or not len(vectors) == len(prompts) == len(names) > 0:
        raise BadInput(str(path), f"vectors are {vectors.dtype} {vectors.shape}", "one float32 row for each text")
    if not np.isfinite(vectors).all() or not np.linalg.norm(vectors, axis=1).all():
        raise BadInput(str(path), "a vector is zero or not finite", "embed the texts again")
    if _digest(names, prompts, vectors, provider) != digest:
        raise BadInput(str(path), "its sha256 is not that of its contents", "write it again with save_table")
    return dict(zip(prompts, vectors, strict=True)), provider, digest


def cache_key(**parts: Any) -> str:
    """One digest of everything that the vectors follow from."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def cached(folder: Path | None, name: str, key: str, rows: int, compute: Callable[[], Array]) -> Array:
    """The (rows, d) vectors kept in ``folder/name.npz`` for this key, else computed and kept; no folder, no file."""
    if folder is None:
        return compute()
    path = folder / f"{name}-{key[:16]}.npz"
    if (kept := _kept(path, key, rows)) is not None:
        return kept
    vectors = compute()
    folder.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.stem}.{os.getpid()}.npz")  # whole or not at all, whoever else writes it
    np.savez(fresh, key=np.array(key), vectors=vectors)
    fresh.replace(path)
    return vectors


def _kept(path: Path, key: str, rows: int) -> Array | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            found: Mapping[str, Any] = {"key": str(stored["key"]), "vectors": stored["vectors"]}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    vectors = found["vectors"]
    fits = found["key"] == key and vectors.dtype == np.float32 and vectors.ndim == 2 and len(vectors) == rows
    return vectors if fits and np.isfinite(vectors).all() else None


def _digest(names: Sequence[str], prompts: Sequence[str], vectors: Array, provider: str) -> str:
    words = json.dumps([list(names), list(prompts), provider, list(vectors.shape)], separators=(",", ":"))
    return hashlib.sha256(words.encode() + vectors.astype("<f4").tobytes()).hexdigest()
