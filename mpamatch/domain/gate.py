"""Whether a candidate replaces the champion: two models on the same audit masks in, a verdict with its reasons out.

The judgement is a paired bootstrap over groups, and over tiles within the drawn groups, of the difference of mean
Dice: tiles of one patient are not independent, so the patient is what is drawn (Field and Welsh 2007, two-stage
cluster bootstrap). No clock, no files, no models here; randomness comes from the seed alone.

Mean Dice: confusion counts are summed over the tiles, Dice is taken per class, and the mean runs over the classes that
the masks hold. A class that no mask holds is left out for both models alike: falsely predicted pixels of it already
cost the class they were taken from, and counting it as zero for one model only would compare two different means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mpamatch.domain.resampling import draw_weights
from mpamatch.errors import BadInput

ChampionKind = Literal["blank", "starter", "provisional", "judged"]
Floats = NDArray[np.float64]

_CHUNK: Final = 200  # draws worked on at once: bounds memory at chunk x tiles


@dataclass(frozen=True)
class TileScore:
    """One model on one audit tile. ``confusion``: int (C, C), rows are the mask's classes, ignored pixels left out."""

    tile_id: int
    group: str
    confusion: NDArray[np.int64]


@dataclass(frozen=True)
class GatePolicy:
    """``margin`` and ``class_fall`` are fractions of Dice; ``confidence`` is that of the one-sided lower bound."""

    margin: float = 0.01
    class_fall: float = 0.02
    confidence: float = 0.90
    draws: int = 2000
    min_tiles: int = 12
    min_groups: int = 4

    def __post_init__(self) -> None:
        fractions = (self.margin, self.class_fall)
        if not all(0 <= f <= 1 for f in fractions) or not 0.5 <= self.confidence < 1:
            raise BadInput("gate policy", f"out of range: {self}", "margins lie in 0..1, confidence in 0.5..1")
        if self.draws < 1 or self.min_tiles < 1 or self.min_groups < 1:
            raise BadInput("gate policy", f"out of range: {self}", "counts are at least 1")


@dataclass(frozen=True)
class Verdict:
    """``provisional``: promoted (or not) without enough audit masks for a bound. ``figures`` is plain JSON."""

    promote: bool
    provisional: bool
    reasons: tuple[str, ...]
    figures: dict[str, Any]


@dataclass(frozen=True)
class _Counts:
    """Per tile and class, float (T, C): hits, predicted pixels and masked pixels."""

    hit: Floats
    predicted: Floats
    true: Floats


@dataclass(frozen=True)
class _Comparison:
    """Candidate minus another model: the point, the bounds over the draws, and the classes that fell too far."""

    point: float
    lower: float
    upper: float
    fallen: tuple[tuple[int, float], ...]


def judge(
    candidate: Sequence[TileScore],
    champion: Sequence[TileScore],
    best: Sequence[TileScore] | None,
    policy: GatePolicy,
    *,
    seed: int,
    champion_kind: ChampionKind,
    collapsed: bool = False,
    never_provisional: bool = False,
) -> Verdict:
    """Compare a candidate with the champion and with the best champion so far (None: the champion is the best).

    All three are scored on the same tiles with the same masks; the order does not matter. ``collapsed``: the caller saw
    the candidate answer one class everywhere (in the audit tiles this is noticed here). ``never_provisional``: without
    enough masks for a bound the candidate stays out, as an adapted model must. Raises BadInput when the tiles differ, a
    tile comes twice, or the matrices have different shapes.
    """
    candidate, champion = _in_order(candidate), _in_order(champion)
    best = _in_order(best) if best is not None else champion
    _check_same_tiles(candidate, champion, "champion")
    _check_same_tiles(candidate, best, "best champion")
    groups = [s.group for s in candidate]
    ours, theirs = _counts(candidate), _counts(champion)
    collapsed = collapsed or _one_class_only(ours)
    figures = _figures(ours, theirs, _counts(best), groups, policy, seed, champion_kind, collapsed)
    if collapsed and champion_kind != "blank":
        reason = "the candidate answers one class everywhere; it never replaces a trained champion"
        return Verdict(False, False, (reason,), figures | {"rule": "collapsed"})
    if not candidate:
        return _unjudged(_without_masks(champion_kind, figures), kept_out=never_provisional)
    if len(candidate) < policy.min_tiles or len(set(groups)) < policy.min_groups:
        return _unjudged(_by_point(figures, policy), kept_out=never_provisional)
    draws = draw_weights(groups, policy.draws, np.random.default_rng(seed))
    with_champion = _compare(ours, theirs, draws, policy, by_class=champion_kind != "blank")
    with_best = _compare(ours, _counts(best), draws, policy, by_class=champion_kind != "blank")
    return _by_bounds(with_champion, with_best, figures, policy)


def _unjudged(verdict: Verdict, *, kept_out: bool) -> Verdict:
    """A verdict without a bound; a candidate that must not serve unjudged stays out all the same."""
    if not (kept_out and verdict.promote):
        return verdict
    reason = "the candidate learnt no label, and without a bound it does not replace the champion"
    return Verdict(False, False, (*verdict.reasons, reason), verdict.figures)


def _without_masks(champion_kind: ChampionKind, figures: dict[str, Any]) -> Verdict:
    figures = figures | {"rule": "no-audit"}
    if champion_kind == "judged":
        reason = "no audit tile is labelled, and the champion was judged on audit masks: it stays"
        return Verdict(False, False, (reason,), figures)
    reason = f"no audit tile is labelled; the champion is {champion_kind}, so the candidate may replace it for now"
    return Verdict(True, True, (reason,), figures)


def _by_point(figures: dict[str, Any], policy: GatePolicy) -> Verdict:
    difference = figures["difference"]
    few = (
        f"{figures['audit_tiles']} audit tiles of {figures['audit_groups']} groups are too few for a bound "
        f"({policy.min_tiles} tiles of {policy.min_groups} groups needed): the point estimate decides"
    )
    if difference is None:  # masks that supervise nothing
        return Verdict(False, False, (few, "the audit masks hold no labelled pixel"), figures | {"rule": "point"})
    promote = difference >= 0
    outcome = (
        f"mean Dice {figures['candidate_dice']:.3f} against {figures['champion_dice']:.3f} of the champion: "
        f"{'not lower' if promote else 'lower'} ({difference:+.3f})"
    )
    return Verdict(promote, promote, (few, outcome), figures | {"rule": "point"})


def _by_bounds(champion: _Comparison, best: _Comparison, figures: dict[str, Any], policy: GatePolicy) -> Verdict:
    reasons: list[str] = []
    promote = True
    for name, found in (("champion", champion), ("best champion so far", best)):
        if name != "champion" and found == champion:
            continue
        holds = found.lower > -policy.margin
        promote &= holds and not found.fallen
        reasons.append(
            f"mean Dice against the {name} {found.point:+.3f}, lower {policy.confidence:.0%} bound {found.lower:+.3f}, "
            f"{'above' if holds else 'not above'} {-policy.margin:.3f}"
        )
        fell = f"against the {name} (> {policy.class_fall})"
        reasons += [f"class {c} fell by {fall:.3f} {fell}" for c, fall in found.fallen]
    figures = figures | {
        "rule": "bound",
        "lower": _plain(champion.lower),
        "upper": _plain(champion.upper),
        "lower_vs_best": _plain(best.lower),
        "upper_vs_best": _plain(best.upper),
        "fallen_classes": sorted({c for c, _ in (*champion.fallen, *best.fallen)}),
    }
    return Verdict(bool(promote), False, tuple(reasons), figures)


def _figures(
    ours: _Counts,
    theirs: _Counts,
    best: _Counts,
    groups: Sequence[str],
    policy: GatePolicy,
    seed: int,
    champion_kind: ChampionKind,
    collapsed: bool,
) -> dict[str, Any]:
    """What a verdict states whatever the rule: plain numbers, None where there is none."""
    dice = {name: _total_dice(counts) for name, counts in (("candidate", ours), ("champion", theirs), ("best", best))}
    mean = {name: _mean(values) for name, values in dice.items()}
    return {
        "audit_tiles": len(groups),
        "audit_groups": len(set(groups)),
        "champion_kind": champion_kind,
        "collapsed": collapsed,
        "candidate_dice": _plain(mean["candidate"]),
        "champion_dice": _plain(mean["champion"]),
        "best_dice": _plain(mean["best"]),
        "difference": _plain(mean["candidate"] - mean["champion"]),
        "difference_vs_best": _plain(mean["candidate"] - mean["best"]),
        "per_class": {name: [_plain(v) for v in values] for name, values in dice.items()},
        "margin": policy.margin,
        "class_fall": policy.class_fall,
        "confidence": policy.confidence,
        "draws": policy.draws,
        "seed": seed,
    }


def _compare(ours: _Counts, theirs: _Counts, draws: Floats, policy: GatePolicy, *, by_class: bool) -> _Comparison:
    """``by_class`` is off against a blank model: what answers background everywhere has no class to defend."""
    parts = [_mean_dice(ours, w) - _mean_dice(theirs, w) for w in np.array_split(draws, -(-len(draws) // _CHUNK))]
    differences = np.concatenate(parts)
    differences = differences[np.isfinite(differences)]
    mine, other = _total_dice(ours), _total_dice(theirs)
    if not len(differences):
        return _Comparison(math.nan, -math.inf, math.inf, ())
    lower, upper = np.quantile(differences, [1 - policy.confidence, policy.confidence])
    falls = other - mine
    fallen = tuple((int(c), float(falls[c])) for c in np.flatnonzero(falls > policy.class_fall)) if by_class else ()
    return _Comparison(_mean(mine) - _mean(other), float(lower), float(upper), fallen)


def _counts(scores: Sequence[TileScore]) -> _Counts:
    if not scores:
        nothing = np.zeros((0, 1))
        return _Counts(nothing, nothing, nothing)
    cube = np.stack([s.confusion for s in scores]).astype(np.float64)
    return _Counts(np.einsum("tcc->tc", cube), cube.sum(axis=1), cube.sum(axis=2))


def _dice(counts: _Counts, weights: Floats) -> Floats:
    """Dice per draw and class, (draws, C); NaN where the drawn masks do not hold the class."""
    hit, predicted, true = (weights @ part for part in (counts.hit, counts.predicted, counts.true))
    held = true > 0
    return np.where(held, 2 * hit / np.where(held, predicted + true, 1), np.nan)


def _mean_dice(counts: _Counts, weights: Floats) -> Floats:
    dice = _dice(counts, weights)
    held = np.isfinite(dice)
    total = np.where(held, dice, 0).sum(axis=1)
    return np.where(held.any(axis=1), total / np.maximum(held.sum(axis=1), 1), np.nan)


def _total_dice(counts: _Counts) -> Floats:
    return _dice(counts, np.ones((1, len(counts.hit))))[0]


def _mean(dice: Floats) -> float:
    held = dice[np.isfinite(dice)]
    return float(held.mean()) if len(held) else math.nan


def _one_class_only(counts: _Counts) -> bool:
    """Whether one class is predicted everywhere although the masks hold more than one."""
    return int((counts.true.sum(axis=0) > 0).sum()) > 1 and int((counts.predicted.sum(axis=0) > 0).sum()) == 1


def _in_order(scores: Sequence[TileScore]) -> list[TileScore]:
    ordered = sorted(scores, key=lambda s: (s.group, s.tile_id))
    if len({s.tile_id for s in ordered}) != len(ordered):
        raise BadInput("audit scores", "a tile comes twice", "score each tile once per model")
    return ordered


def _check_same_tiles(ours: Sequence[TileScore], theirs: Sequence[TileScore], name: str) -> None:
    if [(s.group, s.tile_id) for s in ours] != [(s.group, s.tile_id) for s in theirs]:
        raise BadInput("audit scores", f"candidate and {name} were scored on different tiles", "score both on the same")
    for mine, other in zip(ours, theirs, strict=True):
        a, b = np.asarray(mine.confusion), np.asarray(other.confusion)
        if a.shape != b.shape or a.ndim != 2 or a.shape[0] != a.shape[1] or a.shape != ours[0].confusion.shape:
            raise BadInput(f"tile {mine.tile_id}", f"confusion shapes {a.shape} and {b.shape}", "use (C, C) throughout")
        if (a.sum(axis=1) != b.sum(axis=1)).any():
            raise BadInput(f"tile {mine.tile_id}", f"candidate and {name} saw different masks", "score on one mask")


def _plain(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
