"""What is counted once of predictions and labels, and what still has to be: pairs of a model and a mask, the effort
behind a mask, two people's masks of one tile. Rows of these three are made from what never changes, and may be made
twice or again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Subquery, Text, and_, cast, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session, aliased

from backend.store.images import tile_split
from backend.store.runs import ADAPT
from backend.store.tables import Agreement, Annotation, Effort, Image, Mask, Model, Prediction, Run, Tally, Tile

# Who labelled, in words: Label Studio's user number, or the token or command that took the tile from the queue, and
# nothing else of that person.
person: ColumnElement[Any] = func.coalesce(
    Annotation.holder, literal("annotator ") + cast(Annotation.annotator, Text)
).label("person")


@dataclass(frozen=True)
class DueTally:
    """One model's prediction of a tile that was not counted against the tile's mask yet."""

    model_id: int
    mask_id: int
    tile_id: int
    mask_blob: str
    prediction_id: int
    class_blob: str
    confidence_blob: str


@dataclass(frozen=True)
class DueEffort:
    """What a person drew of which the clicks were not counted yet. ``class_blob``: the suggestion that was in view,
    None where there was none, or where it is ``lost``; ``known_blob``: what was labelled before and shown over it."""

    mask_id: int
    mask_blob: str
    class_blob: str | None
    lost: bool
    known_blob: str | None = None


@dataclass(frozen=True)
class DueAgreement:
    """Two people's masks of one tile that were not compared yet."""

    first_mask_id: int
    second_mask_id: int
    first_blob: str
    second_blob: str


@dataclass(frozen=True)
class Compared:
    """Two people's labels of one tile; ``counts`` as in the row."""

    tile_id: int
    group: str
    split: str
    first: str
    second: str
    counts: list[int]


@dataclass(frozen=True)
class Label:
    """A person's present label: its newest mask and what it took. ``run``: the number of the first run that saw any
    version of it; ``clicks`` None where they are not counted, or not known."""

    person: str | None
    tile_id: int
    split: str
    origin: str
    seconds: float | None
    clicks: float | None
    counted: bool
    suggested: bool
    run: int | None
    updated_at: datetime


# What a person said, without what others said of the same tile before.
_said_blob: ColumnElement[Any] = func.coalesce(Mask.said_blob, Mask.blob).label("said_blob")


def _uncounted(mask_ids: Sequence[int], model_ids: Sequence[int]) -> ColumnElement[bool]:
    counted = select(Tally.id).where(Tally.mask_id == Mask.id, Tally.model_id == Prediction.model_id)
    return and_(
        Mask.tile_id == Prediction.tile_id,
        Mask.id.in_(mask_ids),
        Prediction.model_id.in_(model_ids),
        ~counted.exists(),
    )


def due_tallies(session: Session, mask_ids: Sequence[int], model_ids: Sequence[int], limit: int) -> list[DueTally]:
    """Stored predictions of these models that are not counted against these masks, the newest model's first."""
    rows = session.execute(
        select(
            Prediction.model_id,
            Mask.id,
            Mask.tile_id,
            Mask.blob,
            Prediction.id,
            Prediction.class_blob,
            Prediction.confidence_blob,
        )
        .where(_uncounted(mask_ids, model_ids))
        .order_by(Prediction.model_id.desc(), Mask.tile_id)
        .limit(limit)
    )
    return [DueTally(*row) for row in rows]


def count_due(session: Session, mask_ids: Sequence[int], model_ids: Sequence[int]) -> int:
    """How many they are."""
    query = select(func.count()).select_from(Prediction).join(Mask, Mask.tile_id == Prediction.tile_id)
    return session.scalar(query.where(_uncounted(mask_ids, model_ids))) or 0


def counts_of(session: Session, model_id: int, mask_ids: Sequence[int]) -> dict[int, bytes]:
    """Packed counts of one model, by mask."""
    query = select(Tally.mask_id, Tally.counts).where(Tally.model_id == model_id, Tally.mask_id.in_(mask_ids))
    return {row.mask_id: row.counts for row in session.execute(query)}


def _newest(project_id: int, *columns: Any, name: str = "newest") -> Subquery:
    """Of each present annotation its newest mask, where that says something."""
    newer = aliased(Mask)
    replaced = select(newer.id).where(
        newer.annotation_id == Mask.annotation_id, newer.version > Mask.version, newer.withdrawn_at.is_(None)
    )
    return (
        select(Mask.id, *columns)
        .join(Annotation, Annotation.id == Mask.annotation_id)
        .where(
            Annotation.project_id == project_id,
            Annotation.state == "present",
            Mask.withdrawn_at.is_(None),
            func.coalesce(Mask.said_share, Mask.reviewed_share) > 0,
            ~replaced.exists(),
        )
        .subquery(name)
    )


def due_efforts(session: Session, project_id: int, limit: int) -> list[DueEffort]:
    """The oldest first. Audit tiles and those of a blank champion are labelled without a suggestion."""
    newest = _newest(project_id)
    shown, known = aliased(Model), aliased(Mask)
    rows = session.execute(
        select(Mask.id, _said_blob, tile_split, Prediction.class_blob, shown.kind, known.blob)
        .join(newest, newest.c.id == Mask.id)
        .join(Annotation, Annotation.id == Mask.annotation_id)
        .join(Tile, Tile.id == Mask.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .outerjoin(Prediction, Prediction.id == Mask.prediction_id)
        .outerjoin(known, known.id == Prediction.known_mask_id)
        .outerjoin(shown, and_(shown.project_id == Annotation.project_id, shown.version == Annotation.shown_version))
        .where(~select(Effort.id).where(Effort.mask_id == Mask.id).exists())
        .order_by(Mask.id)
        .limit(limit)
    )
    return [_due_effort(*row) for row in rows]


def _due_effort(
    mask_id: int, blob: str, split: str, class_blob: str | None, kind: str | None, known_blob: str | None
) -> DueEffort:
    nothing = kind in (None, "blank") or split == "audit"
    return DueEffort(mask_id, blob, None if nothing else class_blob, not nothing and class_blob is None, known_blob)


def due_agreements(session: Session, project_id: int, limit: int) -> list[DueAgreement]:
    """Pairs of different people's newest masks of one tile, each as that person drew it."""
    columns = (Mask.tile_id, _said_blob, person)
    one, other = (_newest(project_id, *columns, name=name) for name in ("one", "other"))
    compared = select(Agreement.id).where(Agreement.first_mask_id == one.c.id, Agreement.second_mask_id == other.c.id)
    rows = session.execute(
        select(one.c.id, other.c.id, one.c.said_blob, other.c.said_blob)
        .join(other, and_(other.c.tile_id == one.c.tile_id, one.c.person < other.c.person))
        .where(~compared.exists())
        .order_by(one.c.id, other.c.id)
        .limit(limit)
    )
    return [DueAgreement(*row) for row in rows]


def add_tallies(session: Session, rows: Iterable[tuple[int, int, bytes]]) -> None:
    """(mask, model, packed counts) each."""
    _add(session, Tally, [{"mask_id": a, "model_id": b, "counts": c} for a, b, c in rows])


def add_efforts(session: Session, rows: Iterable[tuple[int, float | None, bool]]) -> None:
    """(mask, clicks, whether a suggestion was in view) each."""
    _add(session, Effort, [{"mask_id": a, "clicks": b, "suggested": c} for a, b, c in rows])


def add_agreements(session: Session, rows: Iterable[tuple[int, int, list[int]]]) -> None:
    """(first mask, second mask, counts row by row) each."""
    _add(session, Agreement, [{"first_mask_id": a, "second_mask_id": b, "counts": c} for a, b, c in rows])


def _add(
    session: Session, table: type[Tally] | type[Effort] | type[Agreement], rows: Sequence[dict[str, object]]
) -> None:
    if rows:
        session.execute(insert(table).on_conflict_do_nothing(), rows)


def labels(session: Session, project_id: int) -> list[Label]:
    """Every person's present label, the oldest first."""
    first_run = (
        select(Mask.annotation_id, func.min(Run.number).label("number"))
        .join(Run, Run.id == Mask.first_run_id)
        .group_by(Mask.annotation_id)
        .subquery()
    )
    newest = _newest(project_id)
    rows = session.execute(
        select(
            person,
            Mask.tile_id,
            tile_split,
            Mask.origin,
            Annotation.lead_time_s,
            Effort.clicks,
            Effort.id.is_not(None),
            func.coalesce(Effort.suggested, False),
            first_run.c.number,
            Annotation.updated_at,
        )
        .join(newest, newest.c.id == Mask.id)
        .join(Annotation, Annotation.id == Mask.annotation_id)
        .join(Tile, Tile.id == Mask.tile_id)
        .join(Image, Image.id == Tile.image_id)
        .outerjoin(Effort, Effort.mask_id == Mask.id)
        .outerjoin(first_run, first_run.c.annotation_id == Mask.annotation_id)
        .order_by(Annotation.updated_at, Annotation.id)
    )
    return [Label(*row) for row in rows]


def compared(session: Session, project_id: int) -> list[Compared]:
    """Every pair of two people's labels of a tile that both are present, and were compared."""
    one, other = (_newest(project_id, person, name=name) for name in ("one", "other"))
    rows = session.execute(
        select(Tile.id, Image.group_name, tile_split, one.c.person, other.c.person, Agreement.counts)
        .join(Image, Image.id == Tile.image_id)
        .join(Mask, Mask.tile_id == Tile.id)
        .join(Agreement, Agreement.first_mask_id == Mask.id)
        .join(one, one.c.id == Agreement.first_mask_id)
        .join(other, other.c.id == Agreement.second_mask_id)
        .order_by(Tile.id, one.c.person, other.c.person)
    )
    return [Compared(*row) for row in rows]


def held_back(session: Session, project_id: int, up_to_run: int) -> dict[int, frozenset[int]]:
    """By number of each training that made a model, up to one: the tiles that it kept out of its own gradient."""
    rows = session.execute(
        select(Run.number, Run.metrics["held_back"]["tiles"]).where(
            Run.project_id == project_id,
            Run.state == "done",
            Run.trigger != ADAPT,
            Run.number <= up_to_run,
            Run.metrics.is_not(None),
        )
    )
    return {number: frozenset(tiles or ()) for number, tiles in rows}


def first_runs(session: Session, tile_ids: Sequence[int]) -> dict[int, int]:
    """By tile: the number of the first run that was shown any mask of it."""
    rows = session.execute(
        select(Mask.tile_id, func.min(Run.number))
        .join(Run, Run.id == Mask.first_run_id)
        .where(Mask.tile_id.in_(tile_ids))
        .group_by(Mask.tile_id)
    )
    return {row[0]: row[1] for row in rows}
