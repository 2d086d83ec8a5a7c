"""Why a tile is asked for, in words for the annotator, made from what is kept of the choice: the strongest first."""

from __future__ import annotations

import math
from typing import Final

from mpamatch.domain.breakdown import Part, breakdown
from mpamatch.domain.look_alikes import LookAlike
from mpamatch.domain.ranking_policy import RankingPolicy
from mpamatch.domain.record import FirstRegion, Record

_BY_CHANCE: Final = "drawn at random, to look where the model may be wrong without knowing"
_AUDIT: Final = "audit tile: it judges the models, so nothing is drawn for you; label all of it"
_COLD: Final = "no trained model yet, a spread over all cases: please label the whole tile"
_FOR_CLASS: Final = "among the most doubtful of its class"
_OF_WHOLE: Final = "it comes now because of its most doubtful place: "
# A factor below this is not worth a word; how confident the model is is always said.
_LEAST: Final = {"uncertainty": 0.0, "impurity": 0.3, "disagreement": 0.3, "novelty": 0.6}
_LEAST_DISAGREEMENT_IN_PART: Final = 0.1  # a fifth of a region at what makes it one
_LEAST_SECOND_LOOK: Final = 0.5


def reasons(record: Record) -> tuple[str, ...]:
    """At least one phrase."""
    first: tuple[str, ...] = () if record.note is None else (record.note,)
    if record.stratum == "audit":
        return (*first, _AUDIT)
    if record.like is not None:
        first += (_alike(record.like),)
    if record.stratum == "cold":
        return (*first, _COLD)
    if record.region is None and record.regions > 0:
        return first or ("its figures were not kept",)  # of an order that an earlier version made, in its words
    first += (_BY_CHANCE,) if record.stratum == "exploration" else ()
    if record.region is None:
        return (*first, f"no region below {_taus(record.ranked_by.policy)}: confident everywhere")
    last: tuple[str, ...] = (_FOR_CLASS,) if record.stratum == "class" else ()
    if record.regions > 1:
        last += (f"{record.regions - 1} more uncertain region{'s' if record.regions > 2 else ''}",)
    said = _of_region(record, record.region)
    if record.note is not None:
        # Asked for as a whole: nothing is to be answered about that place alone, and no box is around it.
        said = (f"{_OF_WHOLE}{said[0]}", *said[1:])
    return (*first, *said, *last)


def _alike(like: LookAlike) -> str:
    return f"at the end: looks like tile {like.artefact}, which was marked as an artefact (cosine {like.cosine:.2f})"


def _of_region(record: Record, region: FirstRegion) -> tuple[str, ...]:
    """What speaks for the region, the largest weighted factor first; before all else why it is one, where confidence
    alone would not say so."""
    taken = breakdown(record)
    assert taken is not None
    sure = region.mean_confidence >= record.ranked_by.policy.tau_of(region.predicted_class)
    unsure = taken.part("uncertainty")
    second = unsure.figure == "bald" and unsure.factor >= _LEAST_SECOND_LOOK
    apart = taken.part("disagreement").factor >= _LEAST["disagreement"]
    least = {**_LEAST, "disagreement": _LEAST_DISAGREEMENT_IN_PART} if sure else _LEAST
    words = {
        "uncertainty": _confidence(record, region) + (" and no surer at a second look" if second else ""),
        "impurity": "several classes mixed",
        "disagreement": f"head and prototypes disagree{'' if apart else ' in a part of it'}",
        "novelty": "unlike anything labelled",
    }
    said = [part for part in taken.parts if part.factor >= least[part.name]]

    def weight(part: Part) -> float:
        return math.inf if sure and part.name == "disagreement" else part.given

    return tuple(words[part.name] for part in sorted(said, key=lambda part: -weight(part)))


def _confidence(record: Record, region: FirstRegion) -> str:
    tau = record.ranked_by.policy.tau_of(region.predicted_class)
    below = f" below {tau:.2f}" if region.mean_confidence < tau else ""
    return f"confidence {region.mean_confidence:.2f}{below} over {_area(region.area_px, record.um_per_px)}"


def _taus(policy: RankingPolicy) -> str:
    """
    >>> _taus(RankingPolicy()), _taus(RankingPolicy(taus=(0.95, 0.9, 0.95)))
    ('0.95', '0.90 to 0.95')
    """
    least, most = min(policy.taus, default=policy.tau), max(policy.taus, default=policy.tau)
    return f"{least:.2f}" if least == most else f"{least:.2f} to {most:.2f}"


def _area(area_px: float, um_per_px: float | None) -> str:
    """
    >>> _area(1248, 0.5), _area(312, None)
    ('312 um2', '312 px')
    """
    return f"{area_px:.0f} px" if um_per_px is None else f"{area_px * um_per_px**2:.0f} um2"
