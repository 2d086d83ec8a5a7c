"""The seconds of a cost model, learnt from how long people took: a fixed time and one for each click, for all and by
person.

A lead time tells when a page was opened and submitted, not that somebody worked in between: people go for lunch. So
the line is fitted by least squares with weights that fall with the distance from it, found anew until they stay
(iteratively reweighted, Holland and Welsch 1977): Huber's loss first, which has one minimum, then Cauchy's at the
spread that is left. Both numbers are kept at 0 or more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.cost import CostModel

Floats = NDArray[np.float64]

LEAST_LABELS: Final = 20
WORTH_AN_ORDER: Final = 1 / 3
_FEW_CLICKS: Final = 5.0  # hardly any region takes less, and what a fit says of less wobbles most
_MAD_TO_SD: Final = 1.4826  # the spread of a normal law from its median absolute deviation
_LEAST_SPREAD_S: Final = 0.1
_MOST_ROUNDS: Final = 100
_STILL: Final = 1e-6


@dataclass(frozen=True)
class Work:
    """One submitted label: who made it, how many clicks its changes are worth, and how long the page was open."""

    person: str | None
    clicks: float
    seconds: float


@dataclass(frozen=True)
class CostFit:
    """A cost model whose seconds are fitted to so many ``labels``, with their spread around it (None where not fitted).

    ``why``: empty where it is fitted, else why the seconds of the defaults, or of all, stand here.
    """

    model: CostModel
    spread_s: float | None
    labels: int
    why: str = ""

    @property
    def fitted(self) -> bool:
        return not self.why


@dataclass(frozen=True)
class CostFits:
    """The fit of everybody together, and each person's own. Who has none is told by that of all."""

    overall: CostFit
    by_person: Mapping[str, CostFit]

    def model_for(self, person: str | None) -> CostModel:
        found = None if person is None else self.by_person.get(person)
        return (found or self.overall).model


def fit_costs(work: Sequence[Work], *, counted_by: CostModel, least_labels: int = LEAST_LABELS) -> CostFits:
    """Fit all labels together, then each person with ``least_labels`` or more; the order does not matter.

    ``counted_by`` is the model by which the clicks were counted; its seconds stand where none are fitted. Labels
    without a positive, finite time are left out.
    """
    usable = [one for one in work if np.isfinite(one.seconds) and one.seconds > 0 and one.clicks >= 0]
    overall = _fit(usable, counted_by, "the defaults hold", least_labels)
    people = sorted({one.person for one in usable if one.person is not None})
    own = {p: [one for one in usable if one.person == p] for p in people}
    return CostFits(overall, {p: _fit(own[p], overall.model, "as for all", least_labels) for p in people})


def worth_an_order(fit: CostFit, live: CostModel, *, most_clicks: float) -> bool:
    """Whether the seconds by which the live order was made are so far off that a new one is worth it.

    Every label moves the fit a little, and each new order moves tiles under people's hands.
    """
    return live.departure(fit.model, clicks=(_FEW_CLICKS, most_clicks)) > WORTH_AN_ORDER


def _fit(work: Sequence[Work], otherwise: CostModel, instead: str, least_labels: int) -> CostFit:
    if len(work) < least_labels:
        return CostFit(otherwise, None, len(work), f"{len(work)} of {least_labels} labels with a time: {instead}")
    clicks, seconds = np.array(sorted((w.clicks, w.seconds) for w in work), np.float64).T
    low, high = np.quantile(clicks, [0.1, 0.9])
    if high - low < 1:
        return CostFit(otherwise, None, len(work), f"all labels took about {low:.0f} clicks: {instead}")
    seconds_fixed, seconds_per_click, spread_s = robust_line(clicks, seconds)
    found = {"seconds_fixed": round(seconds_fixed, 3), "seconds_per_click": round(seconds_per_click, 4)}
    if not any(found.values()):
        return CostFit(otherwise, None, len(work), f"all labels took no time: {instead}")
    return CostFit(replace(otherwise, **found), round(spread_s, 3), len(work))


def robust_line(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Intercept and slope of y over x, (N,) each, both at least 0, and the robust spread of the residuals."""
    spread = _spread(y - np.median(y))
    base = slope = 0.0
    weights = np.ones(len(x))
    for loss in (_huber, _cauchy):
        for _ in range(_MOST_ROUNDS):
            before = (base, slope)
            base, slope = _weighted_line(x, y, weights)
            weights = loss(np.abs(y - base - slope * x) / spread)
            if max(abs(base - before[0]), abs(slope - before[1])) < _STILL:
                break
        spread = _spread(y - base - slope * x)
        weights = _cauchy(np.abs(y - base - slope * x) / spread)
    return base, slope, spread


def _weighted_line(x: Floats, y: Floats, weights: Floats) -> tuple[float, float]:
    """The least-squares line with an intercept and a slope of 0 or more: the best of the inside and the two edges."""
    total = weights.sum()
    mean_x, mean_y = weights @ x / total, weights @ y / total
    slope = (weights @ ((x - mean_x) * (y - mean_y))) / (weights @ (x - mean_x) ** 2)
    base = mean_y - slope * mean_x
    if base >= 0 and slope >= 0:
        return float(base), float(slope)
    edges = [(0.0, max(0.0, float(weights @ (x * y) / (weights @ x**2)))), (max(0.0, float(mean_y)), 0.0)]
    return min(edges, key=lambda line: float(weights @ (y - line[0] - line[1] * x) ** 2))


def _huber(distance: Floats) -> Floats:
    return 1 / np.maximum(distance, 1.0)


def _cauchy(distance: Floats) -> Floats:
    return 1 / (1 + distance**2)


def _spread(residuals: Floats) -> float:
    return max(_MAD_TO_SD * float(np.median(np.abs(residuals))), _LEAST_SPREAD_S)
