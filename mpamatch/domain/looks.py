"""What a model says of one image, and the regions that follow from it: where network and decisions meet. Pure.

Sources: MPAMatch (arXiv 2508.19574) for the three posteriors of a pixel, its head's and those of its prototypes;
Jensen-Shannon divergence (Lin 1991) for how far they are apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpamatch.domain.embeddings import embedding_of_tile
from mpamatch.domain.glass import tissue_area
from mpamatch.domain.grids import FloatArray
from mpamatch.domain.regions import LEAST_SIDE_PX, Region, Tau, find_regions
from mpamatch.domain.signals import disagreement

# The segmenters' heads answer on every second pixel of what they see; outlining finer shows nothing more.
HEAD_STRIDE_PX = 2
RIM_PX = 3.0
# More boxes than a tile of 1024 px has room for side by side are no question any more.
MOST_REGIONS = 24


@dataclass(frozen=True)
class Look:
    """``probabilities`` float32 (C, H, W) at the image's own size, and maps that cover it in cells (``grids``).

    ``tokens`` (E, u, v), the encoder's deepest features, in large cells. In cells of a quarter of what the model sees,
    and None without prototypes: ``embeddings`` (D, h, w) of unit length; ``shares`` (C, h, w), the head's mean in a
    cell; ``image_posterior`` and ``text_posterior`` (C, h, w), None also where they do not know every class.
    """

    probabilities: FloatArray
    tokens: FloatArray
    shares: FloatArray | None = None
    embeddings: FloatArray | None = None
    image_posterior: FloatArray | None = None
    text_posterior: FloatArray | None = None

    @property
    def disagreement(self) -> FloatArray | None:
        """How far head and prototypes are apart in each cell, float32 (h, w) in 0..1; None without prototypes."""
        given = [p for p in (self.shares, self.image_posterior, self.text_posterior) if p is not None]
        return disagreement(given).astype(np.float32) if len(given) > 1 else None

    @property
    def vectors(self) -> tuple[FloatArray, ...]:
        """The maps of which embeddings of areas are made."""
        return (self.tokens,) if self.embeddings is None else (self.embeddings, self.tokens)


def regions_of(
    look: Look,
    image: npt.NDArray[np.uint8],
    tau: Tau,
    *,
    reduction: float,
    reviewed: npt.NDArray[np.bool_] | None = None,
    box_side_px: float | None = None,
) -> tuple[Region, ...]:
    """The regions of an image RGB uint8 (H, W, 3) that a model looked at after shrinking it by ``reduction``.

    They lie on tissue and carry their embeddings. Lengths go by what the model sees: a boundary is as wide, and its
    outline as fine, as its own pixels are. There is none where the image is ``reviewed``, bool (H, W). Boxes are as
    large as helps a person; with ``box_side_px`` all are squares of that side, where the image is as long.
    """
    height_px, width_px = image.shape[:2]
    step = max(1, int(HEAD_STRIDE_PX * reduction))
    return find_regions(
        look.probabilities[:, ::step, ::step],
        tau,
        disagreement=look.disagreement,
        vectors=look.vectors,
        tissue=tissue_area(image),
        valid=None if reviewed is None else ~reviewed[::step, ::step],
        scale=float(step),
        size_px=(width_px, height_px),
        max_regions=MOST_REGIONS,
        rim_px=RIM_PX * reduction,
        simplify_px=step / 2,
        min_side_px=LEAST_SIDE_PX if box_side_px is None else box_side_px,
        max_side_px=box_side_px,
    )


def embeddings_of(look: Look, regions: tuple[Region, ...]) -> FloatArray:
    """float32 (1 + R, D): the whole tile's, then that of each region in order. All of unit length."""
    rows = [region.embedding for region in regions if region.embedding is not None]
    return np.stack([embedding_of_tile(look.vectors), *rows])
