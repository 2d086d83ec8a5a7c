"""The state of a project's whole ring at one moment, as plain values: what the dashboard shows first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.actions.open_run import facts_of, rules_of
from backend.store import images, models, predictions, projects, queue, runs
from backend.store.images import tile_split
from backend.store.tables import (
    Annotation,
    Event,
    Image,
    Inbox,
    Mask,
    Model,
    Project,
    QueueEntry,
    Run,
    Task,
    Tile,
)
from mpamatch.domain.ranked import STRATA
from mpamatch.domain.schedule import decide


@dataclass(frozen=True)
class Depth:
    """One stratum of the live queue: how many wait, how many of these stand in Label Studio or are ``held`` by somebody
    who took them from the queue, and since when."""

    stratum: str
    waiting: int
    in_label_studio: int
    held: int
    oldest_at: datetime | None


@dataclass(frozen=True)
class Champion:
    """The model that serves."""

    version: str
    kind: str
    provisional: bool
    since: datetime
    previous: str | None


@dataclass(frozen=True)
class OpenRun:
    """The run that is not over yet; ``step`` and ``eta_s`` once it has told of itself.

    ``adapts``: it learns no label.
    """

    number: int
    state: str
    step: int | None
    steps: int | None
    eta_s: float | None
    heartbeat_at: datetime | None
    cancel_requested: bool
    version: str
    adapts: bool = False


@dataclass(frozen=True)
class LastRun:
    """The latest run, open or not."""

    number: int
    state: str
    problem: str | None
    finished_at: datetime | None
    adapts: bool


@dataclass(frozen=True)
class SetAside:
    """Something that the rest goes on without, and why."""

    item: str
    problem: str


@dataclass(frozen=True)
class Ring:
    """Every station's numbers. ``regions``: with a box, of tiles that wait; ``whole``: such tiles as are gone over as a
    whole, because their masks came with the images, and have no box."""

    images: int
    groups: int
    quarantined: int
    train_tiles: int
    audit_tiles: int
    artefacts: int
    predicted: int
    regions: int
    whole: int
    tau: float
    tau_by_class: Mapping[str, float]
    depth: tuple[Depth, ...]
    ranked_at: datetime | None
    head_size: int
    tasks: int
    oldest_task_at: datetime | None
    annotations: int
    skipped: int
    annotations_aside: int
    last_annotation_at: datetime | None
    masked_train: int
    masked_audit: int
    changed: int
    retrain_after: int
    starts: bool
    start_reasons: tuple[str, ...]
    run: OpenRun | None
    last_run: LastRun | None
    runs: int
    candidate: str | None
    judged: int
    promoted: int
    champion: Champion
    inbox_waiting: int
    inbox_since: datetime | None
    images_aside: tuple[SetAside, ...]
    labels_aside: tuple[SetAside, ...]
    labels_differ: str | None

    @property
    def tiles(self) -> int:
        return self.train_tiles + self.audit_tiles

    @property
    def waiting(self) -> int:
        return sum(d.waiting for d in self.depth)


def see_ring(session: Session, project: Project, *, now: datetime) -> Ring:
    """Read it in one transaction, so that the numbers belong together."""
    policy = projects.policy_of(project)
    champion = projects.champion(session, project)
    counts = images.counts(session, project.id)
    by_state = _annotations(session, project.id)
    masked = _masked(session, project.id)
    facts = facts_of(session, project, now=now)
    decision = decide(now, facts, rules_of(session, project))
    tasks, oldest_task = session.execute(
        select(func.count(), func.min(Task.published_at)).where(Task.project_id == project.id, Task.state == "live")
    ).one()
    waiting, since = session.execute(
        select(func.count(), func.min(Inbox.received_at)).where(
            Inbox.project_id == project.id, Inbox.applied_at.is_(None)
        )
    ).one()
    regions, whole = _regions(session, project)
    all_models = models.all_of(session, project.id)
    latest = runs.latest(session, project.id)
    return Ring(
        images=counts["images"],
        groups=_count(session, select(func.count(Image.group_name.distinct())).where(Image.project_id == project.id)),
        quarantined=counts["quarantined"],
        train_tiles=counts["train_tiles"],
        audit_tiles=counts["audit_tiles"],
        artefacts=_count(session, select(func.count()).where(Tile.project_id == project.id, Tile.state == "artefact")),
        predicted=predictions.seen_by(session, project.id, champion.id),
        regions=regions,
        whole=whole,
        tau=policy.tau,
        tau_by_class=policy.tau_by_class,
        depth=see_depth(session, project),
        ranked_at=see_ranked_at(session, project),
        head_size=policy.head_size,
        tasks=tasks,
        oldest_task_at=oldest_task,
        annotations=by_state.get("present", 0),
        skipped=by_state.get("skipped", 0),
        annotations_aside=by_state.get("quarantined", 0),
        last_annotation_at=session.scalar(
            select(func.max(Annotation.updated_at)).where(Annotation.project_id == project.id)
        ),
        masked_train=masked.get("train", 0),
        masked_audit=masked.get("audit", 0),
        changed=facts.changed_tiles,
        retrain_after=policy.retrain_after_tiles,
        starts=decision.start,
        start_reasons=tuple(decision.reasons),
        run=_open_run(latest) if latest is not None and latest.state in runs.OPEN else None,
        last_run=None if latest is None else _last_run(latest),
        runs=_count(session, select(func.count()).where(Run.project_id == project.id)),
        candidate=next((m.version for m in reversed(all_models) if m.state == "candidate"), None),
        judged=sum(m.verdict is not None for m in all_models),
        promoted=sum(bool((m.verdict or {}).get("promote")) for m in all_models),
        champion=_champion(champion, all_models),
        inbox_waiting=waiting,
        inbox_since=since,
        images_aside=_images_aside(session, project.id),
        labels_aside=_labels_aside(session, project.id),
        labels_differ=project.ls_problem,
    )


def _count(session: Session, query: object) -> int:
    return int(session.scalar(query) or 0)  # type: ignore[call-overload]


def see_ranked_at(session: Session, project: Project) -> datetime | None:
    """When the live order was made; None before the first."""
    query = select(func.max(Event.at)).where(Event.project_id == project.id, Event.what == "queue ranked")
    return session.scalar(query)


def see_depth(session: Session, project: Project) -> tuple[Depth, ...]:
    """The live queue by stratum, strata that are empty left out."""
    leased = QueueEntry.state == "leased"
    rows = session.execute(
        select(
            QueueEntry.stratum,
            func.count(),
            func.count().filter(leased, QueueEntry.lease_until.is_(None)),
            func.count().filter(leased, QueueEntry.lease_until.is_not(None)),
            func.min(Image.created_at),
        )
        .join(Tile, Tile.id == QueueEntry.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .where(
            QueueEntry.project_id == project.id,
            QueueEntry.generation == project.queue_generation,
            QueueEntry.state.in_(queue.WAITING),
            Image.state == "ready",
        )
        .group_by(QueueEntry.stratum)
    )
    found = {row[0]: Depth(*row) for row in rows}
    return tuple(found[name] for name in STRATA if name in found)


def _regions(session: Session, project: Project) -> tuple[int, int]:
    """Regions of the tiles that wait, and how many of these are asked for as a whole. Summed over the entries: counting
    a large pool's region rows takes a while."""
    regions, whole = session.execute(
        select(func.sum(func.cardinality(QueueEntry.region_ids)), func.count(QueueEntry.note)).where(
            QueueEntry.project_id == project.id,
            QueueEntry.generation == project.queue_generation,
            QueueEntry.state.in_(queue.WAITING),
        )
    ).one()
    return int(regions or 0), int(whole)


def _annotations(session: Session, project_id: int) -> dict[str, int]:
    rows = session.execute(
        select(Annotation.state, func.count()).where(Annotation.project_id == project_id).group_by(Annotation.state)
    )
    return {row[0]: row[1] for row in rows}


def _masked(session: Session, project_id: int) -> dict[str, int]:
    rows = session.execute(
        select(tile_split, func.count(Tile.id.distinct()))
        .select_from(Image)
        .join(Tile, Tile.image_id == Image.id)
        .join(Mask, Mask.tile_id == Tile.id)
        .where(
            Image.project_id == project_id,
            Image.state == "ready",
            Tile.state == "ready",
            Mask.withdrawn_at.is_(None),
            Mask.reviewed_share > 0,
        )
        .group_by(tile_split)
    )
    return {row[0]: row[1] for row in rows}


def _last_run(run: Run) -> LastRun:
    return LastRun(run.number, run.state, run.problem, run.finished_at, run.trigger == runs.ADAPT)


def _open_run(run: Run) -> OpenRun:
    progress = run.progress or {}
    return OpenRun(
        number=run.number,
        state=run.state,
        step=progress.get("step"),
        steps=progress.get("steps"),
        eta_s=progress.get("eta_s") if run.state == "training" else None,
        heartbeat_at=run.heartbeat_at,
        cancel_requested=run.cancel_requested,
        version=run.version,
        adapts=run.trigger == runs.ADAPT,
    )


def _champion(champion: Model, all_models: object) -> Champion:
    by_id = {m.id: m for m in all_models}  # type: ignore[attr-defined]
    previous = by_id.get(champion.previous_id) if champion.previous_id is not None else None
    return Champion(
        version=champion.version,
        kind=champion.kind,
        provisional=champion.provisional,
        since=champion.promoted_at or champion.created_at,
        previous=None if previous is None else previous.version,
    )


_SHOWN_ASIDE = 5


def _images_aside(session: Session, project_id: int) -> tuple[SetAside, ...]:
    rows = session.execute(
        select(Image.uri, Image.problem)
        .where(Image.project_id == project_id, Image.state == "quarantined")
        .order_by(Image.id.desc())
        .limit(_SHOWN_ASIDE)
    )
    return tuple(SetAside(uri.rsplit("/", 1)[-1], problem or "no reason noted") for uri, problem in rows)


def _labels_aside(session: Session, project_id: int) -> tuple[SetAside, ...]:
    rows = session.execute(
        select(Annotation.ls_task_id, Annotation.ls_annotation_id, Annotation.problem)
        .where(Annotation.project_id == project_id, Annotation.state == "quarantined")
        .order_by(Annotation.id.desc())
        .limit(_SHOWN_ASIDE)
    )
    return tuple(
        SetAside(f"annotation {number} of task {task}", problem or "no reason noted") for task, number, problem in rows
    )
