"""Whether it works: the audit of tau, advice on going on, what labels cost, how people agree. From counted rows."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import Field

from backend.actions.advise_stopping import advise_stopping
from backend.actions.audit_tau import TARGET, audit_tau
from backend.actions.fit_costs import see_costs
from backend.actions.see_agreement import see_agreement
from backend.api.bearer import Viewer
from backend.api.parts import parts_of
from backend.api.v1.problems import READS
from backend.api.v1.shapes import ProjectKey, Shape

router = APIRouter(prefix="/api/v1/projects/{key}", tags=["audit"], responses=READS)

Bounds = tuple[float, float] | None


class BinShape(Shape):
    """Pixels with a confidence from ``low`` to below ``high``; ``acceptance``: the share where the label agrees."""

    low: float
    high: float
    pixels: int
    share: float
    confidence: float | None
    acceptance: float | None
    bounds: Bounds
    dice: float | None


class AtTauShape(Shape):
    """Pseudo-labels at a threshold: the share of pixels that pass, their acceptance, and the Dice among them. ``tau``:
    null for all classes together where they have different ones."""

    tau: float | None
    passed: float | None
    acceptance: float | None
    bounds: Bounds
    dice: float | None


class ReliabilityShape(Shape):
    """All classes together (``class_id`` null), or the pixels predicted as one."""

    class_id: int | None
    pixels: int
    tiles: int
    unit: Literal["group", "tile"]
    units: int
    bins: list[BinShape]
    at_tau: AtTauShape
    ece: float | None


class StandingShape(Shape):
    """A champion on the audit tiles that all champions here have seen."""

    version: str
    confidence: float | None
    passed: float | None
    acceptance: float | None
    dice: float | None


class ChangeShape(Shape):
    """From the first to the last champion, along the line through all."""

    point: float
    bounds: Bounds


class DriftShape(Shape):
    """``alarm``: confidence grew while acceptance fell."""

    state: Literal["alarm", "quiet", "too early"]
    says: str
    tiles: int
    groups: int
    standings: list[StandingShape]
    confidence: ChangeShape | None
    acceptance: ChangeShape | None


class TauAdviceShape(Shape):
    """What is suggested for a class, from tiles that the champion never learnt from; ``tau`` null says why in ``says``.

    ``bounds``: of tau; its upper end is null where part of the draws found no tau good enough.
    """

    class_id: int
    tau: float | None
    bounds: tuple[float, float | None] | None
    acceptance: float | None
    acceptance_bounds: Bounds
    passed: float | None
    tiles: int
    units: int
    says: str


class TauAuditShape(Shape):
    """``audit`` reports, ``held`` suggests; ``judged`` is what audit tiles say of each suggestion. ``tau`` is that of
    classes without their own, ``taus`` that of each. ``waiting``: what is not counted yet."""

    champion: str
    champion_kind: str
    tau: float
    taus: list[float]
    target: float
    class_names: list[str]
    audit: list[ReliabilityShape]
    audit_tiles: int
    audit_groups: int
    drift: DriftShape
    held: list[ReliabilityShape]
    held_tiles: int
    held_groups: int
    held_suggested: int
    advice: list[TauAdviceShape]
    judged: list[AtTauShape | None]
    waiting: int


class GainShape(Shape):
    """Dice that more labels are expected to add."""

    expected: float
    low: float
    high: float


class AdviceShape(Shape):
    verdict: Literal["go on", "consider stopping", "unclear", "too early"]
    says: str
    usable: int
    next_head: GainShape | None
    per_100_clicks: GainShape | None


class StepShape(Shape):
    """One verdict; the bounds are each one-sided at ``confidence``."""

    version: str
    labelled_before: int
    labelled_after: int
    difference: float
    lower: float | None
    upper: float | None
    confidence: float


class BroughtShape(Shape):
    """What the labels that only the candidate had seen brought, and cost."""

    version: str
    against: str
    promoted: bool
    step: StepShape
    labels: int
    clicks: float
    seconds: float
    per_100_clicks: float | None
    per_100_bounds: Bounds


class AcceptedShape(Shape):
    """Of the latest suggestions, those that were submitted unchanged."""

    part: int
    whole: int
    share: float | None
    low: float | None
    high: float | None


class StoppingShape(Shape):
    """``head_tiles`` wait; ``labelled`` train tiles have a mask."""

    advice: AdviceShape
    verdicts: list[BroughtShape]
    accepted: AcceptedShape
    head_tiles: int
    labelled: int
    clicks_per_tile: float | None
    seconds_per_tile: float | None


class CostModelShape(Shape):
    """Clicks: one for each area and one for each ``px_per_click`` of its outline, of a correction's outline the share.
    Seconds: ``seconds_fixed`` and ``seconds_per_click``."""

    px_per_click: float
    correction_share: float
    seconds_fixed: float
    seconds_per_click: float


class CostFitShape(Shape):
    """``why``: empty for seconds that were fitted to times, else what stands here instead."""

    model: CostModelShape
    spread_s: float | None
    labels: int
    why: str


class CostsShape(Shape):
    """What labels cost: everybody's, and each person's; ``ranked_by``: what the live order was ranked by."""

    overall: CostFitShape
    by_person: dict[str, CostFitShape]
    ranked_by: CostModelShape | None


class AgreementShape(Shape):
    """Two people (``people`` null: all together) on the tiles that both labelled; ``lowest``: [tile, its Dice]."""

    people: tuple[str, str] | None
    tiles: int
    blind_tiles: int
    pixels: int
    dice: float | None
    bounds: Bounds
    lowest: tuple[int, float] | None


class AgreementsShape(Shape):
    agreements: list[AgreementShape]


class AuditQuestion(Shape):
    """What a suggestion should reach."""

    precision: float = Field(TARGET, gt=0, lt=1, description="of a class's pseudo-labels, the share that is right")


@router.get("/audit")
def audit(
    request: Request, caller: Viewer, key: ProjectKey, question: Annotated[AuditQuestion, Query()]
) -> TauAuditShape:
    """The reliability of the champion's confidence on audit tiles, the tau that each class would need, and an alarm."""
    with parts_of(request).database.transaction() as session:
        return TauAuditShape.model_validate(audit_tau(session, caller.project(session, key), target=question.precision))


@router.get("/advice")
def advice(request: Request, caller: Viewer, key: ProjectKey) -> StoppingShape:
    """What more labels are expected to add, and what the labels so far brought and cost. Advice, not an order."""
    with parts_of(request).database.transaction() as session:
        return StoppingShape.model_validate(advise_stopping(session, caller.project(session, key)))


@router.get("/costs")
def costs(request: Request, caller: Viewer, key: ProjectKey) -> CostsShape:
    """Seconds for clicks, fitted to how long people took."""
    with parts_of(request).database.transaction() as session:
        return CostsShape.model_validate(see_costs(session, caller.project(session, key)))


@router.get("/agreement")
def agreement(request: Request, caller: Viewer, key: ProjectKey) -> AgreementsShape:
    """Dice of two people's labels of one tile: all together first, then each two people."""
    with parts_of(request).database.transaction() as session:
        found = see_agreement(session, caller.project(session, key))
        return AgreementsShape(agreements=[AgreementShape.model_validate(one) for one in found])
