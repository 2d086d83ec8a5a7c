"""Chance that belongs to an id: draws that do not move when other ids come or go.

A generator's stream ties each draw to its position, so one tile more would re-shuffle all others; here the draw is a
hash of (seed, purpose, round, id). Use a Generator for everything that is drawn once and as a whole.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray


def hash_draw(seed: int, purpose: str, name: str) -> int:
    """A 64-bit number that looks random and depends on all three alone."""
    text = f"{seed}\x00{purpose}\x00{name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")


def uniform_draws(seed: int, purpose: str, round_number: int, ids: NDArray[np.int64]) -> NDArray[np.float64]:
    """One number in the open interval (0, 1) per id, float64 of the same shape.

    splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators") of the id, keyed by the rest.
    """
    key = np.uint64(hash_draw(seed, purpose, str(round_number)))
    z = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + key
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)
