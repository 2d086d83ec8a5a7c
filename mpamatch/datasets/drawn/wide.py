"""Drawn H&E glands of wide variety, worth training on: many stains, growths, sizes and mishaps, with exact masks.

Each tile draws its own habit and look. It is drawn larger than wanted and cut, so that glands are cut by the tile's
edge as in a real section.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from mpamatch.datasets.drawn import artefacts
from mpamatch.datasets.drawn.epithelium import draw_glands
from mpamatch.datasets.drawn.habit import draw_habit
from mpamatch.datasets.drawn.layout import lay_out, whole_instances
from mpamatch.datasets.drawn.stains import draw_look, light
from mpamatch.datasets.drawn.stroma import draw_ground, draw_stroma
from mpamatch.errors import BadInput

_MARGIN_PX = 40
_MISHAPS = np.array([0.06, 0.03, 0.05, 0.05])  # how often a fold, a bubble, dust, ink
SMALLEST_PX = 16


class DrawnTissue(NamedTuple):
    """``image`` uint8 (H, W, 3) RGB; ``classes`` uint8 (H, W), 0 background, 1 gland; ``instances`` uint16 (H, W), 0
    background, 1..n the glands: each is connected, and together they are exactly class 1."""

    image: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.uint16]


def draw_wide(seed: int, count: int, size_px: int = 256) -> Iterator[DrawnTissue]:
    """``count`` tiles of wide variety; the same seed gives the same tiles, and a larger count begins with them.

    >>> tile = next(draw_wide(seed=1, count=1, size_px=64))
    >>> tile.image.shape, bool(((tile.instances > 0) == (tile.classes == 1)).all())
    ((64, 64, 3), True)
    """
    for index in range(count):
        yield draw_wide_tile(seed, index, size_px)


def draw_wide_tile(seed: int, index: int = 0, size_px: int = 256, *, unharmed: bool = False) -> DrawnTissue:
    """The tile number ``index`` of a seed; ``unharmed``: the same tissue without folds, ink, dust and bubbles.

    Raises BadInput for a side under 16 px or a negative number.
    """
    if size_px < SMALLEST_PX or seed < 0 or index < 0:
        problem = f"seed {seed}, tile {index}, {size_px} px"
        raise BadInput("drawn tissue", problem, f"give numbers from 0 and a side from {SMALLEST_PX} px")
    rng = np.random.default_rng([seed, index, 0x1D])
    habit = draw_habit(rng)
    look = draw_look(rng)
    size = size_px + 2 * _MARGIN_PX
    layout = lay_out(rng, size, habit)
    density = draw_ground(rng, size, habit)
    draw_stroma(rng, density, layout, habit)
    draw_glands(rng, density, layout, habit)
    density.bare(layout.glass)
    # Artefacts have a generator of their own: whether there is ink must not change the tissue below it.
    mishaps = np.random.default_rng([seed, index, 0xAF])
    folded, bubbled, dusty, inked = (mishaps.random(4) < _MISHAPS) & (not unharmed)
    if folded:
        artefacts.fold(mishaps, density)
    seen = light(rng, density, look)
    if bubbled:
        seen = artefacts.bubble(mishaps, seen)
    seen = artefacts.focus(mishaps, seen)
    if dusty:
        seen = artefacts.dust(mishaps, seen)
    if inked:
        seen = artefacts.pen(mishaps, seen)
    inner = slice(_MARGIN_PX, _MARGIN_PX + size_px)
    image = artefacts.develop(mishaps, seen[inner, inner], look)
    instances = whole_instances(layout.instances[inner, inner]).astype(np.uint16)
    return DrawnTissue(image, (instances > 0).astype(np.uint8), instances)
