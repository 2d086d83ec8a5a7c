"""What the model of a round says of each train image, as far as strategies ask: the queue's own looks and regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mpamatch.domain.embeddings import embeddings_of_areas
from mpamatch.domain.grids import FloatArray
from mpamatch.domain.looks import Look, regions_of
from mpamatch.domain.region_means import mean_inside
from mpamatch.domain.regions import Region
from mpamatch.domain.tiling import Box
from mpamatch.errors import Cancelled
from mpamatch.experiments.simulation.boxes import lattice
from mpamatch.experiments.simulation.hidden_pool import HiddenPool
from mpamatch.inference import Predictor


@dataclass(frozen=True)
class Seen:
    """``predicted`` class ids uint8 (H, W); ``regions`` outside what is labelled, and BALD of each (nan without a
    second look); ``labelled`` float32 (K, D), the embeddings of what is labelled."""

    predicted: npt.NDArray[np.uint8]
    regions: tuple[Region, ...]
    bald: tuple[float, ...]
    labelled: FloatArray


def look_at_pool(
    predictor: Predictor,
    pool: HiddenPool,
    known: Mapping[int, Sequence[Box]],
    *,
    tau: float,
    box_side_px: int,
    second_looks: bool,
    stop: Callable[[], bool],
) -> list[Seen]:
    """One look at every image; ``known`` are the boxes that are labelled in some. Raises Cancelled."""
    found = []
    for tile in range(len(pool)):
        if stop():
            raise Cancelled("simulation", "stopped while the pool was looked at", "start it again to resume")
        image, boxes = pool.image(tile), known.get(tile, ())
        look = predictor.look(image)
        reviewed = np.zeros(image.shape[:2], bool)
        for box in boxes:
            reviewed[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px] = True
        regions = regions_of(
            look, image, tau, reduction=predictor.reduction(image), reviewed=reviewed, box_side_px=box_side_px
        )
        bald = [float("nan")] * len(regions)
        if second_looks and regions:
            gain = predictor.second_look(image)
            bald = [mean_inside(gain, region.rings, pool.sizes_px[tile]) for region in regions]
        predicted = look.probabilities.argmax(axis=0).astype(np.uint8)
        areas = [part for box in boxes for part in _parts(box, box_side_px)]
        found.append(Seen(predicted, regions, tuple(bald), embeddings_of_boxes(look, areas)))
    return found


def embeddings_of_boxes(look: Look, boxes: Sequence[Box]) -> FloatArray:
    """Unit vectors float32 (N, D) of what lies in each box, made as those of regions are."""
    height, width = look.probabilities.shape[1:]
    places = [
        (np.arange(b.y_px, b.y_px + b.height_px)[:, None] * width + np.arange(b.x_px, b.x_px + b.width_px)).ravel()
        for b in boxes
    ]
    if not places:
        return np.zeros((0, sum(len(field) for field in look.vectors)), np.float32)
    owners = np.repeat(np.arange(len(boxes)), [len(inside) for inside in places])
    return embeddings_of_areas(look.vectors, owners, np.concatenate(places), len(boxes), (height, width))


def _parts(box: Box, side_px: int) -> list[Box]:
    """A whole image shows more than one mean can hold: it counts as the boxes that it could be cut into."""
    return [
        Box(box.x_px + part.x_px, box.y_px + part.y_px, part.width_px, part.height_px)
        for part in lattice(Box(0, 0, box.width_px, box.height_px), side_px)
    ]
