"""What a label costs a person: clicks of a contour or of a correction, and seconds from clicks. Pure.

``CostModel`` holds every constant. Clicks: one for each component, and one for each stretch of its outline as it is
drawn. A correction is charged for what is wrong, and half as much for its boundary, since a stroke mends both sides of
it. By these two constants clicks are counted, and they stay; the two of the seconds are defaults until `cost_fit` has
them from the times that people took.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from mpamatch.errors import BadInput

Floats = NDArray[np.float64]
CostMode = Literal["contour", "correction"]
_Number = TypeVar("_Number", float, Floats)


@dataclass(frozen=True)
class CostModel:
    """``seconds = seconds_fixed + seconds_per_click * clicks``; one click for each ``px_per_click`` of contour.

    Raises BadInput for a constant that would make a label free or pay for itself.
    """

    px_per_click: float = 12.0
    correction_share: float = 0.5
    seconds_fixed: float = 3.0
    seconds_per_click: float = 1.1

    def __post_init__(self) -> None:
        positive = (self.px_per_click, self.seconds_fixed + self.seconds_per_click)
        others = (self.correction_share, self.seconds_fixed, self.seconds_per_click)
        if not all(0 < p < math.inf for p in positive) or not all(0 <= o < math.inf for o in others):
            raise BadInput("cost model", f"out of range: {self}", "seconds are 0 or more, px per click above 0")

    def contour_clicks(self, components: _Number, perimeter_px: _Number) -> _Number:
        """Clicks to draw outlines anew: one for each component, and its contour.

        >>> CostModel().contour_clicks(1.0, 120.0)
        11.0
        """
        return components + perimeter_px / self.px_per_click

    def correction_clicks(self, wrong_components: _Number, wrong_boundary_px: _Number) -> _Number:
        """Clicks to mend outlines that are shown.

        >>> CostModel().correction_clicks(1.0, 120.0)
        6.0
        """
        return wrong_components + self.correction_share * wrong_boundary_px / self.px_per_click

    def expected_clicks(self, perimeter_px: Floats, wrong_share: Floats, mode: CostMode) -> Floats:
        """Clicks for regions of one component each. ``wrong_share``: how much of each is expected to be wrong."""
        if mode == "contour":
            return self.contour_clicks(np.ones_like(perimeter_px), perimeter_px)
        return self.correction_clicks(wrong_share, wrong_share * perimeter_px)

    def seconds(self, clicks: _Number) -> _Number:
        """Seconds that so many clicks take, the look at the place included.

        >>> CostModel().seconds(10.0)
        14.0
        """
        return self.seconds_fixed + self.seconds_per_click * clicks

    def departure(self, other: CostModel, *, clicks: tuple[float, float]) -> float:
        """How far its seconds are from the other's, as a share of the smaller: the most for clicks between the two.

        The ratio of two such lines only grows or only falls, so the ends tell.

        >>> round(CostModel().departure(CostModel(seconds_per_click=2.2), clicks=(5.0, 60.0)), 2)
        0.96
        """
        ends = [(self.seconds(one), other.seconds(one)) for one in clicks]
        return max(max(a, b) / min(a, b) - 1 for a, b in ends)


def disc_outline_px(area_px: Floats) -> Floats:
    """The outline of a disc of that area: what a region costs at least, where its outline is not known."""
    return 2.0 * np.sqrt(math.pi * area_px)
