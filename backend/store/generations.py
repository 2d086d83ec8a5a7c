"""Generations of the queue: each is written whole beside the live one, and goes live by one number."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from sqlalchemy import case, delete, select, text, update
from sqlalchemy.orm import Session

from backend.store import leases
from backend.store.annotations import ANSWERED
from backend.store.columns import Lists, Nullable, write_columns
from backend.store.queue import IN_LABEL_STUDIO, WAITING
from backend.store.returning import returns
from backend.store.tables import Annotation, Mask, Project, QueueEntry, Ranking, Task
from mpamatch.domain.factors import normalised
from mpamatch.domain.ranked import STRATA, Ranked
from mpamatch.domain.record import FirstRegion

# Of the statistics of a new order: 300 rows for each. They tell that it is there, and of what size; the usual 100 take
# several times as long.
_SAMPLE: Final = 20


def live(session: Session, project: Project) -> Ranking | None:
    """What the live order was ranked by; None before the first."""
    return session.scalars(
        select(Ranking).where(Ranking.project_id == project.id, Ranking.generation == project.queue_generation)
    ).one_or_none()


def write_generation(
    session: Session,
    project: Project,
    ranked: Ranked,
    *,
    model_id: int,
    config_hash: str,
    artefacts: Sequence[int] = (),
    notes: Mapping[int, str] | None = None,
) -> int:
    """Write the next generation beside the live one, and drop what is older than that; returns its number.

    ``artefacts``: the marked tiles that it knows of.
    Tiles with a note are asked for as a whole: their regions are not shown, and the note stands before the reasons.
    Entries that were answered stay in their generations, as the record of why they were asked for.
    """
    generation = project.queue_generation + 1
    of_project = QueueEntry.project_id == project.id
    session.execute(
        delete(QueueEntry).where(
            of_project, QueueEntry.generation < project.queue_generation, QueueEntry.state.in_(WAITING)
        )
    )
    session.execute(delete(QueueEntry).where(of_project, QueueEntry.generation >= generation))
    session.execute(delete(Ranking).where(Ranking.project_id == project.id, Ranking.generation >= generation))
    ranking = Ranking(
        project_id=project.id,
        generation=generation,
        model_id=model_id,
        ranked_by=ranked.ranked_by.to_json(),
        config_hash=config_hash,
        artefacts=list(artefacts),
    )
    session.add(ranking)
    session.flush()
    columns = {
        "project_id": project.id,
        "generation": generation,
        "ranking_id": ranking.id,
        "config_hash": config_hash,
    }
    write_columns(session, QueueEntry.__tablename__, {**columns, **_entry_columns(ranked, notes or {})}, len(ranked))
    # Rows of a generation that the statistics have not heard of look like none: joins with them would be planned so.
    session.execute(text(f"SET LOCAL default_statistics_target = {_SAMPLE}"))
    session.execute(text("ANALYZE queue_entry (project_id, generation, ranking_id, tile_id, rank, state, attempt)"))
    return generation


def flip_to(session: Session, project: Project, generation: int, *, model_id: int) -> None:
    """Make a generation that was written the live one, with what is held, left out or labelled by now.

    From here to the end of the transaction nobody claims or closes: it has to be a short one. Where a mask came in
    while the order was made, it goes live all the same, and counts as stale.
    """
    before = leases.hold_order(session, project.id, to_change=True)
    _hold(session, project, generation)
    leases.take_over(session, project.id, before=before, after=generation)
    answered = select(Annotation.tile_id).where(Annotation.project_id == project.id, Annotation.state.in_(ANSWERED))
    labelled = answered.where(Annotation.state != "skipped")
    session.execute(
        update(QueueEntry)
        .where(
            QueueEntry.project_id == project.id,
            QueueEntry.generation == generation,
            QueueEntry.tile_id.in_(answered),
            QueueEntry.state != "skipped",
            ~returns(QueueEntry.tile_id, model_id),
        )
        .values(
            state=case((QueueEntry.tile_id.in_(labelled), "done"), else_="skipped"), lease_holder=None, lease_until=None
        )
    )
    # Who imports masks writes them first and then that the order is stale: one of the two is seen under this lock.
    session.refresh(project, ["ranked_model_id"], with_for_update=True)
    project.queue_generation = generation
    project.ranked_model_id = None if _masked_since(session, project, generation, model_id) else model_id


def _masked_since(session: Session, project: Project, generation: int, model_id: int) -> bool:
    """Whether a tile that waits has a mask by now that the order did not know of: what it knew to have one has a
    note, or is asked for again."""
    masked = select(Mask.id).where(Mask.tile_id == QueueEntry.tile_id, Mask.withdrawn_at.is_(None))
    query = select(QueueEntry.id).where(
        QueueEntry.project_id == project.id,
        QueueEntry.generation == generation,
        QueueEntry.state.in_(WAITING),
        QueueEntry.note.is_(None),
        masked.exists(),
        ~returns(QueueEntry.tile_id, model_id),
    )
    return session.scalar(query.limit(1)) is not None


def _hold(session: Session, project: Project, generation: int) -> None:
    """What Label Studio shows is leased to it in the new order too."""
    held = select(Task.tile_id).where(Task.project_id == project.id, Task.state == "live")
    session.execute(
        update(QueueEntry)
        .where(QueueEntry.project_id == project.id, QueueEntry.generation == generation, QueueEntry.tile_id.in_(held))
        .values(state="leased", lease_holder=IN_LABEL_STUDIO)
    )


def _entry_columns(ranked: Ranked, notes: Mapping[int, str]) -> dict[str, Any]:
    """By column of the table, in the order of the ranks."""
    raw, by = ranked.regions, ranked.ranked_by
    factors = normalised(raw, by.policy, by.scales)
    none = ~ranked.has_region
    shown = np.diff(ranked.starts)
    if notes:
        shown = np.where(np.isin(ranked.tile_ids, list(notes)), 0, shown)
    kept = np.repeat(shown > 0, np.diff(ranked.starts))
    of_region = {
        **{name: getattr(raw, name) for name in (f.name for f in dataclasses.fields(FirstRegion))},
        "seconds": by.policy.cost.seconds(raw.clicks),
        "uncertainty_factor": factors.uncertainty,
        **{name: getattr(factors, name) for name in ("novelty", "cost", "support")},
    }
    return {
        "rank": np.arange(1, len(ranked) + 1),
        "tile_id": ranked.tile_ids,
        "region_ids": Lists(ranked.region_ids[kept], np.concatenate([[0], np.cumsum(shown)])),
        "score": ranked.score,
        "noise": ranked.noise,
        "stratum": [STRATA[code] for code in ranked.strata.tolist()],
        "propensity": ranked.propensity,
        "round": by.round_number,
        "class_id": Nullable(ranked.class_ids, ranked.class_ids < 0),
        "class_worth": _known(ranked.class_worth),
        "um_per_px": _known(ranked.um_per_px),
        "like_tile_id": Nullable(ranked.like_tile_ids, ranked.like_tile_ids < 0),
        "like_cosine": _known(ranked.like_cosines),
        **{name: _known(column, none) for name, column in of_region.items()},
        "note": [notes.get(tile) for tile in ranked.tile_ids.tolist()] if notes else None,
    }


def _known(column: Any, none: Any = False) -> Nullable:
    return Nullable(column, np.isnan(column) | none)
