"""Learning curves over what labels cost: means over a common range, and where a line is crossed. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.experiments.statistics import ScoredCurve, mean_over_curve

AXES: Final = ("clicks", "seconds", "area_share")
SETS: Final = ("val", "pool")
_DECIMALS: Final = 12
"""Of a mean: the last bits hang on where its points lie, and would count as a difference of equals."""


@dataclass(frozen=True)
class Curve:
    """One strategy with one seed: R points, the first of them the start, where nothing is bought yet.

    ``at`` has each axis (R,), ascending; ``mdice`` each set (R,); ``confusions`` each set (R, N, C, C) of its
    ``images``.
    """

    at: Mapping[str, NDArray[np.float64]]
    mdice: Mapping[str, NDArray[np.float64]]
    images: Mapping[str, tuple[str, ...]]
    confusions: Mapping[str, NDArray[np.int64]]

    @classmethod
    def of(cls, rounds: Sequence[Mapping[str, Any]]) -> Curve:
        """From the rows of rounds as cells keep them."""
        per_image = {name: [row[name]["per_image"] for row in rounds] for name in SETS}
        return cls(
            at={axis: np.array([row[axis] for row in rounds], np.float64) for axis in AXES},
            mdice={name: np.array([row[name]["mdice"] for row in rounds], np.float64) for name in SETS},
            images={name: tuple(str(one["image"]) for one in rows[0]) for name, rows in per_image.items()},
            confusions={
                name: np.array([[one["confusion"] for one in images] for images in rows], np.int64)
                for name, rows in per_image.items()
            },
        )

    def mean(self, axis: str, end: float, on: str = "val") -> float:
        """The mean Dice over the curve from the start to ``end`` of an axis: the area under it over that range."""
        return round(float(mean_over_curve(self.at[axis], self.mdice[on], end)), _DECIMALS)

    def scored(self, axis: str, end: float, on: str) -> ScoredCurve:
        """The same, to be drawn from by images."""
        return ScoredCurve(self.images[on], self.confusions[on], self.at[axis], end)

    def reaches(self, target: float, axis: str = "clicks", on: str = "val") -> float | None:
        """Where the curve first comes to ``target``; None where it never does.

        A straight line between two points is taken for what lies between them.
        """
        at, values = self.at[axis], self.mdice[on]
        over = np.flatnonzero(values >= target)
        if not over.size:
            return None
        first = int(over[0])
        if first == 0:
            return float(at[0])
        share = (target - values[first - 1]) / (values[first] - values[first - 1])
        return float(at[first - 1] + share * (at[first] - at[first - 1]))


def common_end(curves: Sequence[Curve], axis: str) -> float:
    """How far every curve goes on an axis; 0 without any."""
    return min((float(curve.at[axis][-1]) for curve in curves), default=0.0)
