"""What a label costs in this project, by person: fitted anew from rows whenever somebody asks.

There is no row of parameters to keep in step: some thousand labels are fitted in milliseconds. An order keeps the model
that it was ranked by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.orm import Session

from backend.store import generations, tallies
from backend.store.tables import Project
from mpamatch.domain.cost import CostModel
from mpamatch.domain.cost_fit import CostFit, CostFits, Work, fit_costs
from mpamatch.domain.record import RankedBy

# Clicks are counted once and kept, so what they are counted by never changes.
COUNTED_BY = CostModel()


@dataclass(frozen=True)
class SeenCosts:
    """``ranked_by``: what the live order was ranked by; None before the first."""

    overall: CostFit
    by_person: Mapping[str, CostFit]
    ranked_by: CostModel | None


def fitted_costs(session: Session, project_id: int) -> CostFits:
    """The fit of everybody (``overall``) and each person's; the defaults while there are too few labels.

    Of train tiles alone: nothing is fitted on audit tiles, and what the queue asks for comes with a suggestion.
    """
    work = [
        Work(label.person, label.clicks, label.seconds)
        for label in tallies.labels(session, project_id)
        if label.split == "train" and label.clicks is not None and label.seconds is not None
    ]
    return fit_costs(work, counted_by=COUNTED_BY)


def see_costs(session: Session, project: Project) -> SeenCosts:
    """All that is known of what labels cost."""
    fits, live = fitted_costs(session, project.id), generations.live(session, project)
    by = None if live is None else RankedBy.from_json(live.ranked_by).policy.cost
    return SeenCosts(fits.overall, fits.by_person, by)
