"""Who answers in a simulation: the hidden mask, exactly inside a box, for as many clicks as it takes to draw it. Pure.

The cost is that of drawing anew (`mpamatch.domain.cost`, mode contour) along the true outlines, whatever the model had
shown: a strategy must not become cheap by asking where the model is right already.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

from mpamatch.domain.contours import contours_of
from mpamatch.domain.cost import CostModel
from mpamatch.domain.masks import Mask, crop, unsupervised
from mpamatch.domain.tiling import Box

COST: Final = CostModel()
_LEAST_CLICKS: Final = 1.0
"""To say that a box holds nothing takes a click as well."""


@dataclass(frozen=True)
class Bought:
    """One answered question: a box of image ``tile``, in the image's pixels, and what led to it.

    ``wrong_share``: how much of the box the model had wrong before.
    """

    tile: int
    box: Box
    clicks: float
    round_number: int
    stratum: str
    score: float
    propensity: float
    wrong_share: float

    @property
    def seconds(self) -> float:
        return float(COST.seconds(np.array(self.clicks)))

    def to_json(self) -> dict[str, Any]:
        box = self.box
        return {**asdict(self), "box": [box.x_px, box.y_px, box.width_px, box.height_px]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Bought:
        """The inverse of :meth:`to_json`."""
        return cls(**{**values, "box": Box(*values["box"])})


def clicks_for(truth: Mask, box: Box | None) -> float:
    """Clicks to draw what a box of a mask holds, or all of it: at least one.

    >>> clicks_for(np.zeros((8, 8), np.uint8), None)
    1.0
    """
    drawn = contours_of(truth if box is None else crop(truth, box))
    clicks = COST.contour_clicks(np.array(float(drawn.areas)), np.array(drawn.length_px))
    return max(_LEAST_CLICKS, float(clicks))


def answered(truth: Mask, boxes: Iterable[Box]) -> Mask:
    """What is known of an image after these answers: the truth inside the boxes, 255 elsewhere."""
    known = unsupervised(truth.shape[1], truth.shape[0])
    for box in boxes:
        inside = np.s_[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px]
        known[inside] = truth[inside]
    return known


def mean_clicks(truth: Mask, boxes: Sequence[Box]) -> float:
    """What one of these boxes takes on average."""
    return float(np.mean([clicks_for(truth, box) for box in boxes]))
