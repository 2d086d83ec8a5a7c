"""Every knob of the queue's order with its default; what the knobs do is in `ranking` and `strategies`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mpamatch.domain.cost import CostMode, CostModel
from mpamatch.domain.strategy_names import STRATEGY_NAMES, StrategyName
from mpamatch.errors import BadInput


@dataclass(frozen=True)
class RankingPolicy:
    """Every knob of the order.

    ``weight_*``: the sum of a region's factors. ``support_px``: a region of this area counts half, since the mean of a
    few pixels says little; 0 switches that off. ``full_cost_clicks``: clicks at which the cost is 1. A score is divided
    by (``cost_floor`` + (1 - ``cost_floor``) cost) to the power of ``cost_exponent``: with 0 and 1 it is worth per
    minute and nothing else. ``noise_beta_*``: from diverse to greedy over ``planned_rounds``. ``tau``, or ``taus`` by
    class id where classes have their own, moves nothing: reasons name it.

    Of a head, ``exploration_share`` is drawn by chance and ``class_share`` of the rest by class. Picks are spread over
    the best ``window`` x as many candidates; two whose cosine is above ``duplicate_cosine``, or whose pictures' hashes
    differ in ``duplicate_bits`` bits or less, are not both in a head. ``image_cap`` of one image and ``group_share`` of
    one group at most, as far as others are there to take their place. The first ``planned_heads`` heads are chosen
    like that; what follows stands by its score.

    What is costly is known of the best ``front_tiles`` tiles alone: novelty against the embeddings of ``seed_tiles``
    labelled tiles at most, spreading, near copies, and what looks like an artefact: what has a cosine above
    ``artefact_cosine`` with one goes to the end. A first order without a model looks at ``cold_tiles``.
    """

    strategy: StrategyName = "mpamatch"
    head_size: int = 50
    audit_share: float = 0.2
    exploration_share: float = 0.1
    class_share: float = 0.66
    tau: float = 0.95
    taus: tuple[float, ...] = ()
    weight_uncertainty: float = 0.4
    weight_impurity: float = 0.2
    weight_disagreement: float = 0.2
    weight_novelty: float = 0.2
    support_px: float = 256.0
    cost: CostModel = field(default_factory=CostModel)
    cost_mode: CostMode = "contour"
    full_cost_clicks: float = 60.0
    cost_floor: float = 0.25
    cost_exponent: float = 0.5
    noise_beta_first: float = 1.0
    noise_beta_last: float = 100.0
    planned_rounds: int = 10
    window: int = 5
    duplicate_cosine: float = 0.95
    duplicate_bits: int = 4
    image_cap: int = 3
    group_share: float = 0.2
    planned_heads: int = 4
    least_foreground: float = 0.01
    front_tiles: int = 20_000
    seed_tiles: int = 2_000
    cold_tiles: int = 5_000
    artefact_cosine: float = 0.95

    def __post_init__(self) -> None:
        shares = (
            *(self.audit_share, self.exploration_share, self.class_share, self.group_share, self.tau),
            *(self.cost_floor, self.least_foreground, self.artefact_cosine, *self.taus),
        )
        counts = (self.head_size, self.planned_rounds, self.image_cap, self.window, self.front_tiles)
        many = (self.planned_heads, self.duplicate_bits, self.seed_tiles, self.cold_tiles)
        scales = (self.full_cost_clicks, self.noise_beta_first, self.noise_beta_last)
        others = (
            *(self.weight_uncertainty, self.weight_impurity, self.weight_disagreement, self.weight_novelty),
            *(self.support_px, self.cost_exponent),
        )
        if not all(0 <= s <= 1 for s in shares) or min(counts) < 1 or min(many) < 0:
            raise BadInput("ranking policy", f"out of range: {self}", "shares lie in 0..1, counts are at least 1")
        if not all(0 < s < math.inf for s in scales) or not all(0 <= o < math.inf for o in others):
            raise BadInput("ranking policy", f"out of range: {self}", "weights are 0 or more, scales above 0")
        if self.strategy not in STRATEGY_NAMES:
            raise BadInput(f"strategy {self.strategy!r}", "is unknown", f"one of {', '.join(STRATEGY_NAMES)}")

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> RankingPolicy:
        """The inverse of :meth:`to_json`; knobs not named take their defaults. Raises BadInput for unknown ones."""
        known = {one.name for one in dataclasses.fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise BadInput(f"ranking policy {unknown[0]!r}", "is unknown", f"known: {', '.join(sorted(known))}")
        given = {**values, "taus": tuple(values.get("taus", ()))}
        if isinstance(given.get("cost"), Mapping):
            given["cost"] = CostModel(**given["cost"])
        return cls(**given)

    def tau_of(self, class_id: int) -> float:
        """What confidence has to reach where that class is predicted."""
        return self.taus[class_id] if self.taus else self.tau

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
