"""Whether the champion's confidence can be believed, and which tau each class would need: two tables that never mix.

Audit tiles report: people label them without a suggestion before them, and nothing is fitted on them. Labelled train
tiles that the champion never learnt from suggest; then the audit tiles say what the suggestion is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.actions.tally_labels import subjects, waiting
from backend.store import projects, tallies
from backend.store.masks import CurrentMask
from backend.store.tables import Effort, Model, Project
from mpamatch.domain.drift import Drift, drift
from mpamatch.domain.reliability import AtTau, Precision, Reliability, class_at_tau, reliability
from mpamatch.domain.tallies import TileTally, unpack
from mpamatch.domain.tau_advice import TauAdvice, advise_taus

TARGET = 0.95  # of a class's pseudo-labels, so many should be right
HOW = Precision()


@dataclass(frozen=True)
class TauAudit:
    """``audit`` and ``held``: all classes together first, then each. ``waiting``: pairs that are not counted yet.

    ``tau`` is that of classes without their own, ``taus`` that of each. ``judged``: by class, what the audit tiles say
    of the suggested tau; None where none is suggested. ``held_suggested``: of the held tiles, those that were labelled
    with a suggestion in view, which people tend to follow.
    """

    champion: str
    champion_kind: str
    tau: float
    taus: tuple[float, ...]
    target: float
    class_names: tuple[str, ...]
    audit: tuple[Reliability, ...]
    audit_tiles: int
    audit_groups: int
    drift: Drift
    held: tuple[Reliability, ...]
    held_tiles: int
    held_groups: int
    held_suggested: int
    advice: tuple[TauAdvice, ...]
    judged: tuple[AtTau | None, ...]
    waiting: int


def audit_tau(session: Session, project: Project, *, target: float = TARGET) -> TauAudit:
    """From what is counted. Raises BadInput for a target outside 0..1."""
    champion = projects.champion(session, project)
    found = subjects(session, project)
    names, taus, seed = projects.classes_of(project).names, _taus(project), project.seed
    by_version = {m.version: _tiles(session, m, found.audit, len(names)) for m in found.served}
    audit = by_version.get(champion.version, [])
    held = _tiles(session, champion, found.held, len(names))
    advice = advise_taus(held, names, target, HOW, seed=seed)
    return TauAudit(
        champion=champion.version,
        champion_kind=champion.kind,
        tau=projects.policy_of(project).tau,
        taus=taus,
        target=target,
        class_names=names,
        audit=reliability(audit, taus, HOW, seed=seed),
        audit_tiles=len(audit),
        audit_groups=len({one.group for one in audit}),
        drift=drift(by_version, taus, HOW, seed=seed),
        held=reliability(held, taus, HOW, seed=seed),
        held_tiles=len(held),
        held_groups=len({one.group for one in held}),
        held_suggested=_suggested(session, [m for m in found.held if m.tile_id in {one.tile_id for one in held}]),
        advice=advice,
        judged=tuple(_judged(audit, one, len(names), seed) for one in advice),
        waiting=waiting(session, found),
    )


def confirms_itself(session: Session, project: Project) -> Drift:
    """The alarm alone."""
    found, count = subjects(session, project), projects.classes_of(project).count
    by_version = {m.version: _tiles(session, m, found.audit, count) for m in found.served}
    return drift(by_version, _taus(project), HOW, seed=project.seed)


def _taus(project: Project) -> tuple[float, ...]:
    """The tau of each class."""
    policy, classes = projects.policy_of(project), projects.classes_of(project)
    return policy.taus(classes) or (policy.tau,) * classes.count


def _tiles(session: Session, model: Model, masks: Sequence[CurrentMask], class_count: int) -> list[TileTally]:
    counts = tallies.counts_of(session, model.id, [m.mask_id for m in masks]) if masks else {}
    return [TileTally(m.tile_id, m.group, unpack(counts[m.mask_id], class_count)) for m in masks if m.mask_id in counts]


def _suggested(session: Session, masks: Sequence[CurrentMask]) -> int:
    query = select(func.count()).where(Effort.mask_id.in_([m.mask_id for m in masks]), Effort.suggested)
    return session.scalar(query) or 0


def _judged(audit: Sequence[TileTally], advice: TauAdvice, class_count: int, seed: int) -> AtTau | None:
    if advice.tau is None or not audit:
        return None
    return class_at_tau(audit, class_count, advice.class_id, advice.tau, HOW, seed=seed)
