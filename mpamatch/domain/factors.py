"""What speaks for labelling a region, as columns: raw figures, the same in 0..1, and their weighted sum, the score.

A score is a sum, not a product: a product is zero for a homogeneous, wrong, uncertain area. It is divided by what the
label costs, and small regions count less, since the mean of a few pixels says little.

    s = (w_u u + w_i imp + w_d j + w_n nov) * area / (area + support) / (floor + (1 - floor) cost) ** exponent

Two raw figures have scales of their own and are stretched by figures of the whole pool (``Scales``): BALD, so that
where it is known its mean is that of the entropy there and the two can stand side by side (a BALD that is 0 everywhere
says nothing, and the entropy counts); and the distance to what is labelled, whose 95th percentile counts as 1.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.cost import disc_outline_px
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.errors import BadInput

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

UNKNOWN: Final = float("nan")
_NOVEL_PERCENTILE: Final = 95.0


@dataclass(frozen=True)
class Factors:
    """N rows of raw figures, float64 (N,) each but the class, int64; nan where a figure is not known.

    ``uncertainty`` is the mean entropy, ``margin`` p1 - p2, ``impurity`` and ``disagreement`` as a `regions.Region` has
    them: all in 0..1. ``bald`` is known where a second look was taken, ``distance`` (1 - the highest cosine to anything
    labelled, in 0..2) where there is an embedding, ``true_error`` (the share of pixels that are wrong) in simulations.
    """

    area_px: Floats
    uncertainty: Floats
    margin: Floats
    impurity: Floats
    disagreement: Floats
    mean_confidence: Floats
    predicted_class: Ints
    clicks: Floats
    bald: Floats
    distance: Floats
    true_error: Floats

    @classmethod
    def of(
        cls,
        *,
        area_px: Floats,
        uncertainty: Floats,
        policy: RankingPolicy,
        perimeter_px: Floats | None = None,
        **known: NDArray[Any],
    ) -> Factors:
        """From what is known: 0 for the model's other figures, nan for the rest; clicks from outline or area."""
        area = np.asarray(area_px, np.float64)
        zero, unknown = np.zeros(len(area)), np.full(len(area), UNKNOWN)
        columns: dict[str, NDArray[Any]] = {
            **dict.fromkeys(("margin", "impurity", "disagreement", "mean_confidence"), zero),
            **dict.fromkeys(("bald", "distance", "true_error"), unknown),
            "predicted_class": np.zeros(len(area), np.int64),
            **{name: np.asarray(column) for name, column in known.items()},
        }
        if "clicks" not in columns:
            outline = unknown if perimeter_px is None else np.asarray(perimeter_px, np.float64)
            columns["clicks"] = expected_clicks(area, outline, columns["mean_confidence"], policy)
        return cls(area_px=area, uncertainty=np.asarray(uncertainty, np.float64), **columns)

    def __len__(self) -> int:
        return len(self.area_px)

    def take(self, rows: Ints) -> Factors:
        """Some rows, in that order."""
        return Factors(**{field.name: getattr(self, field.name)[rows] for field in dataclasses.fields(self)})


@dataclass(frozen=True)
class Scales:
    """What the whole pool says of two figures: one ``bald`` is so much entropy; a ``distance`` of this is novelty 1.

    A ``bald`` of 0 means that BALD tells nothing apart, a ``distance`` of 0 that novelty is not known of anything.
    """

    bald: float = 1.0
    distance: float = 0.0


@dataclass(frozen=True)
class Normalised:
    """The same N rows in 0..1. ``uncertainty`` is BALD's where that is known and tells anything; ``support`` grows with
    the area."""

    uncertainty: Floats
    impurity: Floats
    disagreement: Floats
    novelty: Floats
    cost: Floats
    support: Floats


def expected_clicks(area_px: Floats, perimeter_px: Floats, mean_confidence: Floats, policy: RankingPolicy) -> Floats:
    """Clicks per region; where the outline is not known, that of a disc of the same area."""
    outline = np.where(np.isnan(perimeter_px), disc_outline_px(area_px), perimeter_px)
    return policy.cost.expected_clicks(outline, 1.0 - mean_confidence, policy.cost_mode)


def scales_of(raw: Factors) -> Scales:
    """The scales of a pool; those of a part of it would differ."""
    looked = ~np.isnan(raw.bald)
    total = float(raw.bald[looked].sum())
    known = raw.distance[~np.isnan(raw.distance)]
    return Scales(
        bald=float(raw.uncertainty[looked].sum()) / total if total > 0 else 0.0,
        distance=float(np.percentile(known, _NOVEL_PERCENTILE)) if known.size else 0.0,
    )


def normalised(raw: Factors, policy: RankingPolicy, scales: Scales) -> Normalised:
    """Every factor in 0..1."""
    looked = ~np.isnan(raw.bald) & (scales.bald > 0)
    uncertainty = np.where(looked, np.minimum(raw.bald * scales.bald, 1.0), raw.uncertainty)
    if scales.distance > 0:
        novelty = np.nan_to_num(np.clip(raw.distance / scales.distance, 0.0, 1.0), nan=0.0)
    else:
        novelty = np.zeros(len(raw))
    full_s = policy.cost.seconds(policy.full_cost_clicks)
    return Normalised(
        uncertainty=uncertainty,
        impurity=raw.impurity,
        disagreement=raw.disagreement,
        novelty=novelty,
        cost=np.minimum(policy.cost.seconds(raw.clicks) / full_s, 1.0),
        support=support(raw.area_px, policy),
    )


def support(area_px: Floats, policy: RankingPolicy) -> Floats:
    """How far the mean over so many pixels is to be trusted: 1/2 at ``support_px``, 1 for a large area."""
    return area_px / (area_px + policy.support_px)


def discount(factors: Normalised, policy: RankingPolicy) -> Floats:
    """What the worth of a label is multiplied with for its area and its cost."""
    dear = policy.cost_floor + (1.0 - policy.cost_floor) * factors.cost
    return factors.support / dear**policy.cost_exponent


def score(factors: Normalised, policy: RankingPolicy) -> Floats:
    """The weighted sum, discounted, (N,)."""
    total = (
        policy.weight_uncertainty * factors.uncertainty
        + policy.weight_impurity * factors.impurity
        + policy.weight_disagreement * factors.disagreement
        + policy.weight_novelty * factors.novelty
    )
    return total * discount(factors, policy)


def check_factors(ids: Ints, raw: Factors) -> None:
    """Raises BadInput naming the first row whose factors are out of range."""
    fine = (raw.area_px > 0) & np.isfinite(raw.area_px) & (raw.clicks >= 0)
    for name in ("uncertainty", "margin", "impurity", "disagreement", "mean_confidence"):
        column = getattr(raw, name)
        fine &= (column >= 0) & (column <= 1)
    for name in ("bald", "true_error"):
        column = getattr(raw, name)
        fine &= np.isnan(column) | ((column >= 0) & (column <= 1))
    if fine.all():
        return
    at = int(np.flatnonzero(~fine)[0])
    row = {field.name: getattr(raw, field.name)[at].item() for field in dataclasses.fields(raw)}
    raise BadInput(f"region {ids[at]}", f"out of range: {row}", "factors lie in 0..1, the area is above 0")
