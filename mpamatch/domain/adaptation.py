"""Whether a champion may be adapted to the pool, and by which tiles of it: facts in, a refusal or a choice out.

An adaptation learns no label and may harm, so it never serves unjudged: where the gate could not tell, there is none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from mpamatch.domain.draws import hash_draw
from mpamatch.domain.gate import GatePolicy
from mpamatch.errors import Conflict

MOST_TILES: Final = 256
"""So many tiles of the pool are read at most: four patches of each settle a channel's mean and variance in a minute or
two on one core, and a slide's hundred thousand tiles would take hours."""


@dataclass(frozen=True)
class AdaptationFacts:
    """``champion`` is its version and ``has_weights`` whether there is anything to adapt; ``audit_tiles`` of
    ``audit_groups`` have a mask that the gate can judge by; ``any_unlabelled``: there is a train tile without a
    whole label."""

    champion: str
    has_weights: bool
    audit_tiles: int
    audit_groups: int
    any_unlabelled: bool


def check_adaptable(facts: AdaptationFacts, gate: GatePolicy) -> None:
    """Raises Conflict with the first reason why this champion cannot be adapted now."""
    if not facts.has_weights:
        problem = "has no weights, so that there is nothing to adapt"
        raise Conflict(f"champion {facts.champion}", problem, "label tiles and let a run train first")
    if facts.audit_tiles < gate.min_tiles or facts.audit_groups < gate.min_groups:
        problem = (
            f"{facts.audit_tiles} labelled of {facts.audit_groups} groups; the gate needs {gate.min_tiles} tiles of "
            f"{gate.min_groups} groups to judge an adapted model, and lets none in unjudged"
        )
        raise Conflict("audit tiles", problem, "label more audit tiles, then ask again")
    if not facts.any_unlabelled:
        problem = "holds no unlabelled train tile to adapt to"
        raise Conflict("pool", problem, "register more images of this source that train, without masks")


def draw_tiles(tile_ids: Iterable[int], seed: int) -> frozenset[int]:
    """The tiles of the pool that an adaptation reads: all, or of a large pool those that the seed draws."""
    drawn = sorted(tile_ids, key=lambda tile_id: (hash_draw(seed, "adapt", str(tile_id)), tile_id))
    return frozenset(drawn[:MOST_TILES])
