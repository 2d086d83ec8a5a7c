"""A score taken apart: what each figure of a kept choice is, and what it gave. Pure, from the record alone.

The sum and its discount are those of `factors.score`; a strategy that sums nothing up has the same figures, but its
score is another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mpamatch.domain.factors import discount, normalised
from mpamatch.domain.record import Record

Figure = Literal["entropy", "bald", "impurity", "disagreement", "distance"]


@dataclass(frozen=True)
class Part:
    """One summand: the ``raw`` figure (None where it is not known), the same in 0..1, and its weight."""

    name: Literal["uncertainty", "impurity", "disagreement", "novelty"]
    figure: Figure
    raw: float | None
    factor: float
    weight: float

    @property
    def given(self) -> float:
        """What it adds to the sum."""
        return self.weight * self.factor


@dataclass(frozen=True)
class Breakdown:
    """``score`` is the sum of what the parts give, times ``discount``, which is ``support`` over what ``cost`` makes.

    ``clicks`` and ``seconds`` are what labelling the region was expected to take.
    """

    parts: tuple[Part, ...]
    support: float
    cost: float
    discount: float
    clicks: float
    seconds: float

    @property
    def score(self) -> float:
        return sum(part.given for part in self.parts) * self.discount

    def part(self, name: str) -> Part:
        return next(part for part in self.parts if part.name == name)


def breakdown(record: Record) -> Breakdown | None:
    """None where no region speaks for the tile."""
    if record.region is None:
        return None
    region, policy, scales = record.region, record.ranked_by.policy, record.ranked_by.scales
    factors = normalised(region.factors(), policy, scales)
    looked = region.bald is not None and scales.bald > 0
    parts = (
        Part(
            "uncertainty",
            "bald" if looked else "entropy",
            region.bald if looked else region.uncertainty,
            float(factors.uncertainty[0]),
            policy.weight_uncertainty,
        ),
        Part("impurity", "impurity", region.impurity, float(factors.impurity[0]), policy.weight_impurity),
        Part(
            "disagreement",
            "disagreement",
            region.disagreement,
            float(factors.disagreement[0]),
            policy.weight_disagreement,
        ),
        Part("novelty", "distance", region.distance, float(factors.novelty[0]), policy.weight_novelty),
    )
    return Breakdown(
        parts=parts,
        support=float(factors.support[0]),
        cost=float(factors.cost[0]),
        discount=float(discount(factors, policy)[0]),
        clicks=region.clicks,
        seconds=policy.cost.seconds(region.clicks),
    )
