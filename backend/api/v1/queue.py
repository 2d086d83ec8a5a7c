"""The queue: looking at it, and taking tiles from it for a while.

What Label Studio shows is never given out here, and what is given out here is not shown there: one tile is with one
person. Who gives a tile back, skips or renews it names the ``attempt`` of the lease: a late one is a conflict. What
people say of a tile comes in at `answers`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from pydantic import Field
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.actions import show_tile
from backend.actions.answer_tile import leave_out
from backend.api.bearer import Annotator, Caller, Viewer
from backend.api.parts import Parts, parts_of
from backend.api.v1.images import tile_of
from backend.api.v1.problems import WRITES, problems
from backend.api.v1.shapes import MAX_ID, Body, Line, Page, Paging, PathId, ProjectKey, Shape, cursor_of
from backend.api.v1.writes import IdempotencyKey, once
from backend.clock import utc_now
from backend.store import leases, projects
from backend.store.images import shown_name, tile_split
from backend.store.tables import Image, Project, QueueEntry, Tile
from mpamatch.domain.candidates import Stratum
from mpamatch.errors import Conflict

router = APIRouter(prefix="/api/v1/projects/{key}/queue", tags=["queue"])


class EntryShape(Shape):
    """A place in the live order. ``held_until`` is None for what nobody holds, and for what Label Studio shows."""

    rank: int
    tile_id: int
    image: str
    split: str
    stratum: str
    state: str
    score: float
    reasons: list[str]
    in_label_studio: bool
    held_until: datetime | None


class RegionShape(Shape):
    """A box around pixels that the model is unsure of, in pixels of the picture, and what the model says of them."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int
    area_px: int
    mean_confidence: float
    uncertainty: float
    margin: float
    impurity: float
    disagreement: float


class LeaseShape(Shape):
    """A tile that is yours until ``held_until``. Name ``attempt`` when you renew, release, skip or submit it.

    Its box is in level-0 pixels of its image, as in a tile; ``picture_width_px`` and ``picture_height_px`` are those of
    the picture, and of the mask to draw on it. ``suggestion``: where this token gets what ``model_version`` says of it;
    both are None, and there are no regions, where nothing may be shown or is known.
    """

    tile_id: int
    attempt: int
    held_until: datetime
    rank: int
    stratum: str
    reasons: list[str]
    image_id: int
    x_px: int
    y_px: int
    width_px: int
    height_px: int
    scale: float
    picture_width_px: int
    picture_height_px: int
    picture: str
    regions: list[RegionShape]
    model_version: str | None
    suggestion: str | None


class Leases(Shape):
    """Empty when nothing is left to hand out."""

    items: list[LeaseShape]


class EntryState(Shape):
    tile_id: int
    state: str
    held_until: datetime | None


class NextBody(Body):
    count: int = Field(1, ge=1, le=50, description="how many tiles at once")


class AttemptBody(Body):
    attempt: int = Field(ge=1, le=MAX_ID, description="the attempt of your lease")


class SkipBody(AttemptBody):
    reason: Line = Field(description="why nobody should be asked for this tile")


class QueueFilters(Paging):
    state: Literal["open", "leased", "done", "skipped"] | None = None
    stratum: Stratum | None = None


@router.get("", responses=problems(404, 409))
def list_queue(
    request: Request, caller: Viewer, key: ProjectKey, filters: Annotated[QueueFilters, Query()]
) -> Page[EntryShape]:
    """The live order; the export has what was answered in earlier ones too. A page of an order that was replaced
    meanwhile is a conflict: begin again without a cursor."""
    after = filters.after("queue", 2)
    with parts_of(request).database.transaction() as session:
        project = caller.project(session, key)
        generation = project.queue_generation
        if after is not None and after[0] != generation:
            raise Conflict("queue", "was ranked anew since the page before", "begin again without a cursor")
        query = (
            select(QueueEntry, Image, tile_split)
            .join(Tile, Tile.id == QueueEntry.tile_id)
            .join(Image, Image.id == Tile.image_id)
            .where(
                QueueEntry.project_id == project.id,
                QueueEntry.generation == generation,
                QueueEntry.rank > (-1 if after is None else after[1]),
            )
        )
        if filters.state is not None:
            query = query.where(QueueEntry.state == filters.state)
        if filters.stratum is not None:
            query = query.where(QueueEntry.stratum == filters.stratum)
        rows = session.execute(query.order_by(QueueEntry.rank).limit(filters.limit + 1)).all()
        more, rows = len(rows) > filters.limit, rows[: filters.limit]
        cursor = cursor_of("queue", generation, rows[-1][0].rank) if more else None
        return Page(items=[_entry(*row) for row in rows], next_cursor=cursor)


@router.post("/next", responses=WRITES, response_model=Leases)
def take_next(
    request: Request, caller: Annotator, key: ProjectKey, body: NextBody, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """The best tiles that nobody holds, for you alone until they are given back, labelled, or the time is over."""
    parts, now = parts_of(request), utc_now()
    with parts.database.transaction() as session:
        project = caller.project(session, key)

        def act() -> Leases:
            rows = leases.claim(
                session,
                project.id,
                holder=caller.actor,
                count=body.count,
                now=now,
                lease_s=parts.settings.entry_lease_s,
            )
            ids = [row.tile_id for row in rows]
            tiles = {t.id: t for t in session.scalars(select(Tile).where(Tile.id.in_(ids)))}
            version = projects.champion(session, project).version
            shown = show_tile.read_shown(session, project, version, ids, every_region=True)
            return Leases(items=[_lease(parts, key, r, tiles[r.tile_id], shown.get(r.tile_id), version) for r in rows])

        return once(session, request, caller, idempotency_key, body, act, now=now)


@router.post("/{tile_id}/renew", responses=WRITES, response_model=EntryState)
def renew(
    request: Request,
    caller: Annotator,
    key: ProjectKey,
    tile_id: PathId,
    body: AttemptBody,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Hold it longer. 409 when the lease has ended: whoever holds it now keeps it, and your work stays with you."""
    now, lease_s = utc_now(), parts_of(request).settings.entry_lease_s

    def act(session: Session, project: Project) -> QueueEntry:
        return leases.renew(
            session, project.id, tile_id, holder=caller.actor, attempt=body.attempt, now=now, lease_s=lease_s
        )

    return _moved(request, caller, key, tile_id, body, idempotency_key, act, now=now)


@router.post("/{tile_id}/release", responses=WRITES, response_model=EntryState)
def release(
    request: Request,
    caller: Annotator,
    key: ProjectKey,
    tile_id: PathId,
    body: AttemptBody,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Give it back: the next one who asks may have it."""
    now = utc_now()

    def act(session: Session, project: Project) -> QueueEntry:
        return leases.release(session, project.id, tile_id, holder=caller.actor, attempt=body.attempt, now=now)

    return _moved(request, caller, key, tile_id, body, idempotency_key, act, now=now)


@router.post("/{tile_id}/skip", responses=WRITES, response_model=EntryState)
def skip(
    request: Request,
    caller: Annotator,
    key: ProjectKey,
    tile_id: PathId,
    body: SkipBody,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Leave it out of the queue, for everybody, with your reason; a new order leaves it out too. It never trains."""
    now = utc_now()

    def act(session: Session, project: Project) -> QueueEntry:
        blobs, reason = parts_of(request).blobs, body.reason
        return leave_out(
            session, blobs, project, tile_id, holder=caller.actor, attempt=body.attempt, now=now, reason=reason
        )

    return _moved(request, caller, key, tile_id, body, idempotency_key, act, now=now)


def _moved(
    request: Request,
    caller: Caller,
    key: str,
    tile_id: int,
    body: AttemptBody | SkipBody,
    idempotency_key: str | None,
    act: Callable[[Session, Project], QueueEntry],
    *,
    now: datetime,
) -> JSONResponse:
    """One move of a tile that the caller may see, done once however often it is sent."""
    with parts_of(request).database.transaction() as session:
        project = caller.project(session, key)
        tile_of(session, project, tile_id)
        return once(session, request, caller, idempotency_key, body, lambda: _state(act(session, project)), now=now)


def _entry(row: QueueEntry, image: Image, split: str) -> EntryShape:
    return EntryShape(
        rank=row.rank,
        tile_id=row.tile_id,
        image=shown_name(image),
        split=split,
        stratum=row.stratum,
        state=row.state,
        score=row.score,
        reasons=[str(reason) for reason in row.reasons],
        in_label_studio=row.state == "leased" and row.lease_until is None,
        held_until=row.lease_until,
    )


def _lease(
    parts: Parts, key: str, row: QueueEntry, tile: Tile, shown: show_tile.Shown | None, version: str
) -> LeaseShape:
    assert row.lease_until is not None
    address, suggested = parts.settings.api_address, shown is not None and shown.class_blob is not None
    suggestion = f"{address}/api/v1/projects/{key}/tiles/{tile.id}/suggestion.png?model_version={quote(version)}"
    picture_width_px, picture_height_px = tile.size_px
    return LeaseShape(
        tile_id=row.tile_id,
        attempt=row.attempt,
        held_until=row.lease_until,
        rank=row.rank,
        stratum=row.stratum,
        reasons=[str(reason) for reason in row.reasons],
        image_id=tile.image_id,
        x_px=tile.x_px,
        y_px=tile.y_px,
        width_px=tile.width_px,
        height_px=tile.height_px,
        scale=tile.scale,
        picture_width_px=picture_width_px,
        picture_height_px=picture_height_px,
        picture=show_tile.link(parts.keys, address, tile.id, row.lease_until, purpose="look"),
        regions=[RegionShape.model_validate(region) for region in shown.regions] if shown is not None else [],
        model_version=version if suggested else None,
        suggestion=suggestion if suggested else None,
    )


def _state(row: QueueEntry) -> EntryState:
    return EntryState(tile_id=row.tile_id, state=row.state, held_until=row.lease_until)
