"""A batch that is worth labelling together: spread out, without near copies, some by class, some by chance.

Pure and deterministic for a seed. Sources: greedy k-center (Sener and Savarese 2018); power noise and the share by
class as in nnActive's ClaSP PE (Luth et al. 2026).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Caps:
    """The most that one image and one patient may give to a batch; and from which cosine on two are the same."""

    per_image: int = 3
    per_patient_share: float = 0.2
    duplicate_cosine: float = 0.95


@dataclass(frozen=True)
class Candidates:
    """N candidates in any order: unit ``embeddings`` (N, D), ``scores`` (N,), their images and patients."""

    embeddings: Floats
    scores: Floats
    images: Sequence[str]
    patients: Sequence[str]


def noise_beta(place: int, rounds: int) -> float:
    """How sharply scores count in a round: 1 in the first, 100 in the last, growing evenly in its logarithm.

    >>> noise_beta(0, 5), round(noise_beta(2, 5), 6), round(noise_beta(4, 5), 6)
    (1.0, 10.0, 100.0)
    """
    return 1.0 if rounds < 2 else float(100.0 ** (min(place, rounds - 1) / (rounds - 1)))


def noisy_scores(scores: Floats, beta: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """log s + Gumbel(0, 1 / beta): the best of them are a draw in proportion to s to the power of beta."""
    positive = np.maximum(np.asarray(scores, np.float64), 1e-12)
    return np.log(positive) + rng.gumbel(0.0, 1.0 / beta, len(positive))


def shares_of_batch(size: int, *, exploration: float = 0.10, by_class: float = 0.66) -> tuple[int, int, int]:
    """How many of a batch are drawn by chance, by class, and by score; together ``size``.

    >>> shares_of_batch(50)
    (5, 30, 15)
    """
    by_chance = round(exploration * size)
    classes = round(by_class * (size - by_chance))
    return by_chance, classes, size - by_chance - classes


def quotas(size: int, classes: Sequence[int]) -> Mapping[int, int]:
    """``size`` split over classes as evenly as may be, the first ones get what is left over.

    >>> quotas(5, [1, 2])
    {1: 3, 2: 2}
    """
    return {c: size // len(classes) + (place < size % len(classes)) for place, c in enumerate(classes)}


def spread_out(found: Candidates, size: int, labelled: Floats, caps: Caps) -> list[int]:
    """Indices of at most ``size`` candidates, one by one the one that is farthest from all chosen and labelled.

    ``labelled`` (M, D) are embeddings of what has a label. Without any, the highest score begins. Candidates that
    are near copies of one chosen or labelled are passed over, and caps hold. Ties go to the higher score, then to the
    lower index.
    """
    per_patient = max(1, int(np.ceil(caps.per_patient_share * size)))
    nearest = (found.embeddings @ labelled.T).max(axis=1) if len(labelled) else np.full(len(found.scores), -np.inf)
    images: dict[str, int] = {}
    patients: dict[str, int] = {}
    chosen: list[int] = []
    open_ = np.ones(len(found.scores), bool)
    while len(chosen) < size:
        open_ &= nearest <= caps.duplicate_cosine
        if not open_.any():
            break
        order = np.lexsort((np.arange(len(nearest)), -found.scores, nearest))
        best = int(next(i for i in order if open_[i]))
        open_[best] = False
        image, patient = found.images[best], found.patients[best]
        if images.get(image, 0) >= caps.per_image or patients.get(patient, 0) >= per_patient:
            continue
        images[image], patients[patient] = images.get(image, 0) + 1, patients.get(patient, 0) + 1
        chosen.append(best)
        nearest = np.maximum(nearest, found.embeddings @ found.embeddings[best])
    return chosen
