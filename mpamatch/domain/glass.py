"""Where on a tile there is bare glass, so that nobody is asked about it. Pure.

White is not glass everywhere: a lumen, a vacuole, a cleft are as white, and worth asking about. What tells them apart
is how they open to the border of the tile. One that is enclosed does not; one that the tile cuts in half is open along
its width; the field beside a section is open along most of its outline, however ragged the section's edge is. So a
white area is glass where its opening is more than twice the side of a square of its size.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mpamatch.domain.tiling import tissue_mask

BoolArray = npt.NDArray[np.bool_]

# Cells along the longer side: at 1024 px a cell has 8, which is less than any lumen and more than any speck of dust.
_CELLS = 128
_SAMPLES = 2
_MOST_SPECK_CELLS = 4
# In sides of a square of the same size: half a disc has 1.6, a quarter of one in a corner 2.3, a strip 2.8 and more.
_MOST_OPENING = 2.0
_LEAST_COLOURED = 0.01


def tissue_area(image: npt.NDArray[np.uint8]) -> BoolArray:
    """Which cells of a grid over RGB uint8 (H, W, 3) are tissue or lie in tissue, bool (h, w); cells are even.

    All of them where next to nothing has a colour: in a grey or a fluorescent image saturation tells nothing.
    """
    tissue = _without_specks(_in_cells(image))
    if tissue.mean() < _LEAST_COLOURED:
        return np.ones_like(tissue)
    white, count = ndimage.label(~tissue)
    if count == 0:
        return tissue
    sizes = np.bincount(white.ravel(), minlength=count + 1)
    glass = _openings(white, count) ** 2 > _MOST_OPENING**2 * sizes
    glass[0] = False  # what has no number is tissue
    return ~glass[white]


def _in_cells(image: npt.NDArray[np.uint8]) -> BoolArray:
    """Whether most samples of a cell are tissue. A few samples do, and their majority is no noise."""
    step = max(1, -(-max(image.shape[:2]) // (_CELLS * _SAMPLES)))
    top, left = (min(step // 2, side - 1) for side in image.shape[:2])
    sampled = tissue_mask(image[top::step, left::step], cautious=True)
    sampled = np.pad(sampled, [(0, side % _SAMPLES) for side in sampled.shape], mode="edge")
    rows, columns = (side // _SAMPLES for side in sampled.shape)
    votes = sampled.reshape(rows, _SAMPLES, columns, _SAMPLES).sum(axis=(1, 3))
    return votes * 2 >= _SAMPLES**2


def _without_specks(tissue: BoolArray) -> BoolArray:
    """Dust and noise on the glass are no tissue that would make glass a lumen."""
    labels, count = ndimage.label(tissue, structure=np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    sizes[0] = 0
    return (sizes > _MOST_SPECK_CELLS)[labels]


def _openings(labels: npt.NDArray[np.int32], count: int) -> npt.NDArray[np.int64]:
    """By label: how many sides of its cells lie on the border."""
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return np.bincount(edges, minlength=count + 1)
