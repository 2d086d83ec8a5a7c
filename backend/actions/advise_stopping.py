"""Whether to go on labelling: what each verdict's new labels brought and cost, and what the next head may bring.

Candidates that were kept out count as those that were let in; adapted ones learnt no label and are left out. Which
model a candidate was compared with is read from the log of what happened, since who serves changes by hand too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.actions.fit_costs import fitted_costs
from backend.store import masks, models, projects, queue, tallies
from backend.store.tables import Event, Model, Project, QueueEntry, Run
from backend.store.tallies import Label
from mpamatch.domain.cost_fit import CostFits
from mpamatch.domain.stopping import Advice, Next, Share, Step, advise, share_of

RECENT = 50
LEAST_LABELS = 10  # fewer give no clicks per tile
_VERDICTS = ("champion changed", "candidate rejected")


@dataclass(frozen=True)
class Brought:
    """One verdict. ``clicks`` and ``seconds``: of the labels that only the candidate had seen, as far as their clicks
    are known; seconds are what the cost model makes of the clicks, since lead times hold lunches.

    ``per_100_clicks``: the difference for each hundred of them, and its bounds; None where there are none.
    """

    version: str
    against: str
    promoted: bool
    step: Step
    labels: int
    clicks: float
    seconds: float
    per_100_clicks: float | None
    per_100_bounds: tuple[float, float] | None


@dataclass(frozen=True)
class StoppingAdvice:
    """``accepted``: of the latest suggestions, those that were submitted unchanged."""

    advice: Advice
    verdicts: tuple[Brought, ...]
    accepted: Share
    head_tiles: int
    labelled: int
    clicks_per_tile: float | None
    seconds_per_tile: float | None


def advise_stopping(session: Session, project: Project) -> StoppingAdvice:
    """From rows alone."""
    policy = projects.policy_of(project)
    labels = tallies.labels(session, project.id)
    fits = fitted_costs(session, project.id)
    verdicts = tuple(_brought(*sides, labels, fits) for sides in _comparisons(session, project))
    recent = [one for one in labels if one.split == "train" and one.clicks is not None][-RECENT:]
    enough = len(recent) >= LEAST_LABELS
    clicks = sum(one.clicks or 0.0 for one in recent) / len(recent) if enough else None
    suggested = [one for one in labels if one.split == "train" and one.suggested][-RECENT:]
    labelled = sum(m.split == "train" for m in masks.current(session, project.id))
    head = min(policy.head_size, _waiting(session, project))
    following = Next(head, labelled, clicks, policy.gate_margin)
    return StoppingAdvice(
        advice=advise([one.step for one in verdicts], following),
        verdicts=verdicts,
        accepted=share_of(sum(one.origin == "confirmed" for one in suggested), len(suggested)),
        head_tiles=head,
        labelled=labelled,
        clicks_per_tile=clicks,
        seconds_per_tile=None if clicks is None else fits.overall.model.seconds(clicks),
    )


def _waiting(session: Session, project: Project) -> int:
    """Tiles of the live order that train, and wait."""
    query = select(func.count()).where(
        QueueEntry.project_id == project.id,
        QueueEntry.generation == project.queue_generation,
        QueueEntry.state.in_(queue.WAITING),
        QueueEntry.stratum != "audit",
    )
    return session.scalar(query) or 0


@dataclass(frozen=True)
class _Side:
    """A model in a comparison: the number of its run and how many train tiles that saw labelled; 0 without a run. Of an
    adapted one those of the model whose weights it has."""

    model: Model
    run: int
    labelled: int


def _comparisons(session: Session, project: Project) -> list[tuple[_Side, _Side]]:
    """(candidate, what it was compared with) of every verdict with a difference, in their order."""
    by_id = {m.id: m for m in models.all_of(session, project.id)}
    by_version = {m.version: m for m in by_id.values()}
    told = session.execute(
        select(Event.what, Event.actor, Event.subject, Event.before, Event.after)
        .where(Event.project_id == project.id, Event.what.in_(("run queued", *_VERDICTS)))
        .order_by(Event.id)
    ).all()
    sides = _sides(session, list(by_id.values()), {e.subject: e.after or {} for e in told if e.what == "run queued"})
    serving = next((e.before["champion"] for e in told if e.what == "champion changed" and e.before), None)
    serving = serving or projects.champion(session, project).version
    found = []
    for event in (e for e in told if e.what in _VERDICTS):
        candidate, against = by_id.get(int(event.subject.partition(":")[2])), by_version.get(serving)
        if event.actor == "gate" and candidate is not None and against is not None and _counts(candidate):
            found.append((sides[candidate.id], sides[against.id]))
        if event.what == "champion changed" and event.after:
            serving = event.after["champion"]
    return found


def _sides(session: Session, found: Sequence[Model], queued: Mapping[str, Mapping[str, Any]]) -> dict[int, _Side]:
    query = select(Run.id, Run.number).where(Run.id.in_([m.run_id for m in found if m.run_id is not None]))
    numbers = {row.id: row.number for row in session.execute(query)}
    sides = {}
    for model in found:
        run_id = models.origin(session, model).run_id
        labelled = int(queued.get(f"run:{run_id}", {}).get("labelled", 0))
        sides[model.id] = _Side(model, numbers.get(run_id or 0, 0), labelled)
    return sides


def _counts(model: Model) -> bool:
    """Whether its verdict says something of labels: there is a difference, and it may have learnt some."""
    has_difference = ((model.verdict or {}).get("figures") or {}).get("difference") is not None
    return has_difference and "adapted" not in (model.metrics or {})


def _brought(candidate: _Side, against: _Side, labels: Sequence[Label], fits: CostFits) -> Brought:
    verdict = candidate.model.verdict or {}
    figures = verdict["figures"]
    lower, upper = figures.get("lower"), figures.get("upper")
    step = Step(
        version=candidate.model.version,
        labelled_before=against.labelled,
        labelled_after=candidate.labelled,
        difference=float(figures["difference"]),
        lower=lower,
        upper=upper,
        confidence=float(figures.get("confidence", 0.90)),
    )
    new = [x for x in labels if x.split == "train" and x.run is not None and against.run < x.run <= candidate.run]
    known = [(x.person, x.clicks) for x in new if x.clicks is not None]
    clicks = sum(n for _, n in known)
    hundreds = clicks / 100
    return Brought(
        version=candidate.model.version,
        against=against.model.version,
        promoted=bool(verdict.get("promote")),
        step=step,
        labels=len(new),
        clicks=clicks,
        seconds=sum(fits.model_for(person).seconds(n) for person, n in known),
        per_100_clicks=step.difference / hundreds if hundreds else None,
        per_100_bounds=(lower / hundreds, upper / hundreds) if hundreds and None not in (lower, upper) else None,
    )
