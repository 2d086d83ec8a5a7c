"""How far the labelling is: what waits, what was answered, what of it today, and by whom."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time

from sqlalchemy import case, func, select
from sqlalchemy.orm import Session

from backend.store import leases, schedules
from backend.store.tables import Annotation, Image, Project, Tile
from mpamatch.domain.wall_clock import first_instant, wall_time, zone_of


@dataclass(frozen=True)
class Worked:
    """One annotator: a user of Label Studio by number, or who took tiles from the queue. ``today`` counts tiles."""

    annotator: int | None
    holder: str | None
    labelled: int
    skipped: int
    today: int
    last_at: datetime


@dataclass(frozen=True)
class Progress:
    """Counts of tiles. ``held``: with somebody who took them from the queue; ``in_label_studio``: shown there now.

    ``labelled``: of which an annotation counts, those that nobody could tell included (people read "annotated");
    ``skipped``: that were only left out; ``artefacts``: that are marked so now, either way; ``drafts``: answers that
    came too late and wait for a decision. ``today_since``: when today began in the time zone of the project's
    schedule, UTC without one.
    """

    waiting: int
    held: int
    in_label_studio: int
    labelled: int
    artefacts: int
    cannot_tell: int
    skipped: int
    drafts: int
    today: int
    today_since: datetime
    by: tuple[Worked, ...]


def see_progress(session: Session, project: Project, *, now: datetime) -> Progress:
    """As it is now."""
    zone = zone_of(schedules.plan_of(schedules.of(session, project.id)).zone)
    since = first_instant(datetime.combine(wall_time(now, zone).date(), time()), zone)
    waiting = leases.waiting(session, project)
    tiles = _tiles(session, project, since)
    return Progress(
        waiting=waiting.open + waiting.held + waiting.in_label_studio,
        held=waiting.held,
        in_label_studio=waiting.in_label_studio,
        artefacts=_artefacts(session, project),
        today_since=since,
        by=_by(session, project, since),
        **tiles,
    )


def _tiles(session: Session, project: Project, since: datetime) -> dict[str, int]:
    """By tile first, since a tile may have several annotations."""
    present, answered = Annotation.state == "present", Annotation.state.in_(("present", "skipped"))
    by_tile = (
        select(
            func.bool_or(present).label("labelled"),
            func.bool_or(answered).label("answered"),
            func.bool_or(answered & (Annotation.updated_at >= since)).label("today"),
            func.count().filter(Annotation.state == "draft").label("drafts"),
            func.bool_and(case((present, Annotation.scope == "cannot tell"), else_=None)).label("cannot_tell"),
        )
        .where(Annotation.project_id == project.id, Annotation.state != "deleted")
        .group_by(Annotation.tile_id)
        .subquery()
    )
    row = session.execute(
        select(
            func.count().filter(by_tile.c.labelled),
            func.count().filter(by_tile.c.cannot_tell),
            func.count().filter(by_tile.c.answered & ~by_tile.c.labelled),
            func.coalesce(func.sum(by_tile.c.drafts), 0),
            func.count().filter(by_tile.c.today),
        )
    ).one()
    names = ("labelled", "cannot_tell", "skipped", "drafts", "today")
    return {name: int(value) for name, value in zip(names, row, strict=True)}


def _artefacts(session: Session, project: Project) -> int:
    query = (
        select(func.count())
        .select_from(Tile)
        .join(Image, Image.id == Tile.image_id)
        .where(Tile.project_id == project.id, Tile.state == "artefact", Image.state == "ready")
    )
    return session.scalar(query) or 0


def _by(session: Session, project: Project, since: datetime) -> tuple[Worked, ...]:
    present, skipped = Annotation.state == "present", Annotation.state == "skipped"
    tiles = func.count(Annotation.tile_id.distinct())
    rows = session.execute(
        select(
            Annotation.annotator,
            Annotation.holder,
            tiles.filter(present),
            tiles.filter(skipped),
            tiles.filter(Annotation.updated_at >= since),
            func.max(Annotation.updated_at),
        )
        .where(Annotation.project_id == project.id, present | skipped)
        .group_by(Annotation.annotator, Annotation.holder)
        .order_by(tiles.filter(present).desc(), Annotation.annotator, Annotation.holder)
    )
    return tuple(Worked(*row) for row in rows)
