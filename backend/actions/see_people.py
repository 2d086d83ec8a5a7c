"""What each annotator did: numbers by Label Studio's user id, or by who took tiles from the queue; never an address."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from backend.store.tables import Annotation, Mask, Project


@dataclass(frozen=True)
class Person:
    """One annotator. ``seconds`` is the median per label; ``confirmed`` the share submitted as suggested."""

    annotator: int | None
    holder: str | None
    labels: int
    tiles: int
    seconds: float | None
    confirmed: float | None
    skipped: int
    aside: int
    last_at: datetime


def see_people(session: Session, project: Project) -> tuple[Person, ...]:
    """Everybody who submitted or skipped something, the most labels first."""
    present = Annotation.state == "present"
    newest = (
        select(Mask.annotation_id, func.max(Mask.version).label("version"))
        .where(Mask.annotation_id.is_not(None))
        .group_by(Mask.annotation_id)
        .subquery()
    )
    origin = (
        select(Mask.annotation_id, Mask.origin)
        .join(newest, (newest.c.annotation_id == Mask.annotation_id) & (newest.c.version == Mask.version))
        .subquery()
    )
    rows = session.execute(
        select(
            Annotation.annotator,
            Annotation.holder,
            func.count().filter(present),
            func.count(Annotation.tile_id.distinct()).filter(present),
            func.percentile_cont(0.5).within_group(Annotation.lead_time_s.asc()).filter(present),
            func.avg(case((origin.c.origin == "confirmed", 1.0), else_=0.0)).filter(
                present, origin.c.origin.is_not(None)
            ),
            func.count().filter(Annotation.state == "skipped"),
            func.count().filter(Annotation.state == "quarantined"),
            func.max(Annotation.updated_at),
        )
        .outerjoin(origin, origin.c.annotation_id == Annotation.id)
        .where(Annotation.project_id == project.id, Annotation.state.not_in(("deleted", "draft")))
        .group_by(Annotation.annotator, Annotation.holder)
        .order_by(func.count().filter(present).desc(), Annotation.annotator, Annotation.holder)
    )
    return tuple(
        Person(
            annotator=annotator,
            holder=holder,
            labels=labels,
            tiles=tiles,
            seconds=None if seconds is None else float(seconds),
            confirmed=None if confirmed is None else float(confirmed),
            skipped=skipped,
            aside=aside,
            last_at=last_at,
        )
        for annotator, holder, labels, tiles, seconds, confirmed, skipped, aside, last_at in rows
    )
