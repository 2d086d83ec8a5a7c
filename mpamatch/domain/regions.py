"""Probabilities and tau to regions: the connected places of a tile that a person should look at, with their factors.

Knows no file, model or project. A pixel is a candidate where the model is less confident than tau, or where its head
and its prototypes disagree, however sure the head is.

A thin band of low confidence runs along nearly every boundary that a model draws. It says that the line may lie a pixel
further, not that the tissue is unknown, so bands are taken off (morphological opening) and cores remain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import dist

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mpamatch.domain.embeddings import embeddings_of_areas
from mpamatch.domain.grids import held, spread
from mpamatch.domain.region_areas import BoolArray, FloatArray, Limits, Slices, areas_of
from mpamatch.domain.region_boxes import grown_box, without_overlapping
from mpamatch.domain.region_facts import Facts, Pixels
from mpamatch.domain.region_outlines import Drawing, Ring, drawn_rings, outlines
from mpamatch.domain.tiling import Box

Tau = float | Sequence[float]
"""One threshold, or one for each class, which then counts where that class is predicted."""

LEAST_SIDE_PX, MOST_SIDE_PX = 96.0, 256.0
_MAX_SIDE_SHARE = 3 / 8


@dataclass(frozen=True)
class Region:
    """A connected place of doubt, in tile pixels. Factors are what the model alone says of it, each 0..1.

    ``box`` is where a person answers: around the region and, for a small one, around what it lies in. ``rings``: the
    exterior, then holes, each closed (first point = last). ``area_px`` counts pixels, so the outline's own area differs
    from it a little. ``uncertainty`` is the mean entropy / log C, ``margin`` the mean p1 - p2, ``disagreement`` the
    mean of head against prototypes, ``impurity`` the entropy of predicted classes in the box / log C, ``class_shares``
    those classes' shares, ``class_scores`` the mean of entropy / log C times each class's probability. ``embedding``
    float32 (D,) of unit length is what it looks like; None where the model was not asked for it.
    """

    box: Box
    rings: tuple[Ring, ...]
    area_px: int
    uncertainty: float
    margin: float
    impurity: float
    disagreement: float
    predicted_class: int
    mean_confidence: float
    class_shares: tuple[float, ...] = ()
    class_scores: tuple[float, ...] = ()
    embedding: FloatArray | None = field(default=None, compare=False, repr=False)

    @property
    def perimeter_px(self) -> float:
        """The length of its outline, holes included: what it takes to draw it."""
        return sum(dist(a, b) for ring in self.rings for a, b in pairwise(ring))


def find_regions(
    probabilities: FloatArray,
    tau: Tau,
    *,
    disagreement: FloatArray | None = None,
    disagreement_gate: float = 0.5,
    vectors: Sequence[FloatArray] = (),
    tissue: BoolArray | None = None,
    valid: BoolArray | None = None,
    scale: float = 1.0,
    size_px: tuple[int, int] | None = None,
    min_area_px: int = 64,
    max_regions: int = 50,
    rim_px: float = 3.0,
    simplify_px: float = 1.0,
    min_side_px: float = LEAST_SIDE_PX,
    max_side_px: float | None = None,
    most_overlap: float = 0.3,
) -> tuple[Region, ...]:
    """The regions of doubt, the one with most of it first; the same input gives the same regions.

    ``probabilities`` float32 (C, H, W), sums over C are 1, on the model's own grid; ``scale`` is the tile pixels per
    grid pixel, and every length here (``..._px``) is in tile pixels. A raster that was merely interpolated from a
    coarser one says no more than every second pixel of it: ``p[:, ::2, ::2]`` with ``scale=2`` takes a third of the
    time; ``size_px`` (width, height) is then the tile's own size, since the last row and column of such a grid may
    reach beyond it.

    The other rasters cover the same tile in cells of their own size: ``disagreement`` float32 (h, w) in 0..1, where
    more than ``disagreement_gate`` is doubt as well; ``vectors``, each float32 (D_i, h_i, w_i), of which embeddings are
    made; ``tissue`` bool (h, w). Off it and outside ``valid``, bool (H, W), there is never any region; a box may reach
    there.

    Bands up to 2 * ``rim_px`` wide are left out. Of what is wider or higher than ``max_side_px`` (3/8 of the tile's
    longer side, within 96 to 256) only the least confident half is kept, again and again until its parts fit: an early
    model doubts nearly everything, and a box around a whole tile tells a person nothing. Boxes grow to
    ``min_side_px``; one that shares more than ``most_overlap`` with that of a region before it is dropped with its
    region. ``simplify_px=0`` keeps the pixel edges and every hole; otherwise holes under ``min_area_px`` are not drawn.

    Raises ValueError for a wrong shape.
    """
    if probabilities.ndim != 3 or probabilities.shape[0] < 2 or 0 in probabilities.shape:
        raise ValueError(f"probabilities (C, H, W) with at least two classes are needed, got {probabilities.shape}")
    probabilities = np.ascontiguousarray(probabilities)  # else every pass over it would stride
    shape = (probabilities.shape[1], probabilities.shape[2])
    size = size_px or (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))
    most_px = _most_side_px(size) if max_side_px is None else max(1.0, max_side_px)
    confidence, predicted = _best(probabilities)
    unsure = confidence < _thresholds(tau, predicted, probabilities.shape[0])
    if disagreement is not None:
        disagreement = spread(disagreement, shape)
        unsure |= disagreement > np.float32(disagreement_gate)
    limits = Limits(max(1.0, min_area_px / scale**2), max(1.0, most_px / scale), max(0, round(2 * rim_px / scale)))
    labels, count = areas_of(unsure, _both(valid, tissue, shape), confidence, limits)
    if count == 0:
        return ()
    pixels = Pixels.of(labels, count)
    facts = Facts.of(probabilities, confidence, predicted, disagreement, pixels)
    places = ndimage.find_objects(labels, max_label=count)
    # Most doubt first; a tie goes to the upper, then the left one.
    order = sorted(range(count), key=lambda i: (-facts.worth[i], places[i][0].start, places[i][1].start, i))
    boxes = [grown_box(places[i], scale, size, min(min_side_px, most_px)) for i in order]
    kept = without_overlapping(boxes, most_overlap, max_regions)
    chosen = [order[at] for at in kept]
    lines = outlines(labels, count, chosen)
    drawing = Drawing(scale, simplify_px / scale, limits.min_cells, size)
    rings = drawn_rings([lines[index] for index in chosen], drawing)
    looks: Sequence[FloatArray | None] = [None] * len(chosen)
    if vectors and chosen:
        mine = pixels.only(chosen)
        looks = list(embeddings_of_areas(vectors, mine.owners, mine.places, mine.count, shape))
    return tuple(
        _region(index, boxes[at], line, predicted[_cells_in(boxes[at], scale)], facts, scale, look)
        for index, at, line, look in zip(chosen, kept, rings, looks, strict=True)
    )


def _thresholds(tau: Tau, predicted: npt.NDArray[np.uint8], classes: int) -> npt.NDArray[np.float32]:
    """What confidence has to reach: one value, or one for each pixel by its class."""
    by_class = np.asarray(tau, np.float32)
    if by_class.ndim == 0:
        return by_class
    if by_class.shape != (classes,):
        raise ValueError(f"one tau or one for each of {classes} classes is needed, got {by_class.shape}")
    return by_class[predicted]


def _most_side_px(size_px: tuple[int, int]) -> float:
    return min(max(LEAST_SIDE_PX, _MAX_SIDE_SHARE * max(size_px)), MOST_SIDE_PX)


def _best(probabilities: FloatArray) -> tuple[FloatArray, npt.NDArray[np.uint8]]:
    """Highest probability and its class; a running maximum is several times faster than argmax over the first axis."""
    confidence = probabilities[0].astype(np.float32)
    predicted = np.zeros(confidence.shape, np.uint8)
    for index in range(1, probabilities.shape[0]):
        better = probabilities[index] > confidence
        np.copyto(predicted, np.uint8(index), where=better)
        np.maximum(confidence, probabilities[index], out=confidence)
    return confidence, predicted


def _both(valid: BoolArray | None, tissue: BoolArray | None, shape: tuple[int, int]) -> BoolArray | None:
    """Where there may be a region; None for everywhere."""
    if tissue is None or tissue.all():
        return valid
    on_tissue = held(tissue, shape)
    return on_tissue if valid is None else valid & on_tissue


def _region(
    index: int,
    box: Box,
    rings: tuple[Ring, ...],
    shown: npt.NDArray[np.uint8],
    facts: Facts,
    scale: float,
    embedding: FloatArray | None,
) -> Region:
    """``shown``: the predicted classes in the box."""
    classes = facts.class_scores.shape[1]
    shares = np.bincount(shown.ravel(), minlength=classes) / shown.size
    present = shares[shares > 0]
    return Region(
        box=box,
        rings=rings,
        area_px=max(1, round(float(facts.area[index]) * scale**2)),
        uncertainty=float(facts.uncertainty[index]),
        margin=float(facts.margin[index]),
        impurity=min(1.0, float(-(present * np.log(present)).sum() / np.log(classes)) + 0.0),
        disagreement=float(facts.disagreement[index]),
        predicted_class=int(facts.predicted[index]),
        mean_confidence=float(facts.confidence[index]),
        class_shares=tuple(float(share) for share in shares),
        class_scores=tuple(float(score) for score in facts.class_scores[index]),
        embedding=embedding,
    )


def _cells_in(box: Box, scale: float) -> Slices:
    """The grid cells that a box covers, those that it cuts included."""
    return (
        slice(int(box.y_px / scale), int(np.ceil((box.y_px + box.height_px) / scale))),
        slice(int(box.x_px / scale), int(np.ceil((box.x_px + box.width_px) / scale))),
    )
