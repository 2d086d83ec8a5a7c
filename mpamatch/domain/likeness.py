"""Whether two slides show the same tissue, and two tiles the same picture: by small pictures of them. Pure.

A slide that was converted has another hash, other noise and perhaps another file type; at 16 x 16 pixels it is the
same. A tile's picture shrinks to 64 bits: whether each of 8 x 8 places is darker than its right neighbour (a
"difference hash"); pictures that look the same differ in few of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

SIDE_PX = 16
# Grey levels. Two conversions of one slide are one apart at this size; pieces of equal shape and colour, four and more.
_APART = 2.0
_PROPORTION = 0.02
# A picture that shows nearly nothing is like any other that does.
_LEAST_CONTRAST = 8.0


@dataclass(frozen=True)
class Look:
    """A slide in small: RGB uint8 (16, 16, 3), and width by height of the whole."""

    pixels: npt.NDArray[np.uint8]
    proportion: float


def alike(one: Look, other: Look) -> bool:
    """Whether both show the same tissue, upright alike. False for slides that show next to nothing."""
    if abs(one.proportion / other.proportion - 1) > _PROPORTION:
        return False
    a, b = one.pixels.astype(np.float64), other.pixels.astype(np.float64)
    if min(a.mean(axis=2).std(), b.mean(axis=2).std()) < _LEAST_CONTRAST:
        return False
    return float(np.abs(a - b).mean()) < _APART


@dataclass(frozen=True)
class Seen:
    """A slide by name, with its group; ``named`` when a person or an earlier registration gave that group."""

    name: str
    group: str
    named: bool
    look: Look


def groups_by_look(seen: Sequence[Seen]) -> dict[str, tuple[str, str]]:
    """By name of a slide whose group nobody named: the group to take instead, and the slide that it is like.

    Slides with a named group come first, whatever their place; of the others the first one keeps its own group.
    """
    kept: list[Seen] = []
    moved: dict[str, tuple[str, str]] = {}
    for slide in sorted(seen, key=lambda s: not s.named):
        twin = None if slide.named else next((k for k in kept if alike(k.look, slide.look)), None)
        if twin is None or twin.group == slide.group:
            kept.append(slide)
        else:
            moved[slide.name] = (twin.group, twin.name)
    return moved


def look_hash(pixels: npt.NDArray[np.uint8]) -> int:
    """The 64 bits of a picture RGB uint8 (H, W, 3), as a signed number; 0 for one that shows nothing.

    >>> look_hash(np.full((64, 64, 3), 200, np.uint8))
    0
    """
    grey = pixels.mean(axis=2)
    rows, columns = (_parts(grey.shape[axis], count) for axis, count in ((0, 8), (1, 9)))
    small = np.stack([np.stack([grey[r, c].mean() for c in columns]) for r in rows])
    # Less than half a grey level apart is no difference: it would be noise that decides.
    bits = small[:, 1:] - small[:, :-1] > 0.5
    return int.from_bytes(np.packbits(bits).tobytes(), "big", signed=True)


def _parts(size: int, count: int) -> list[slice]:
    edges = np.linspace(0, size, count + 1)
    return [slice(int(a), max(int(b), int(a) + 1)) for a, b in pairwise(edges)]
