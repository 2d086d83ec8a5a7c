"""What somebody says of a tile that the queue handed out to them: a mask, an artefact, cannot tell, or leave it out.

An answer is an annotation like one from Label Studio, and is kept verbatim before anything else is decided. One that
comes too late (the lease ended and another one has the tile, or it was answered or left the queue meanwhile) is kept
as a draft with the reason: it counts once an operator says so, and until then changes nothing.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.actions import show_tile
from backend.actions.collect_annotation import keep_mask, withdraw
from backend.labelstudio.config import ONLY_BOXES, WHOLE_TILE
from backend.labelstudio.results import MaskReading, read_class_map
from backend.store import events, leases, predictions, projects, queue
from backend.store.annotations import same_answer
from backend.store.blobs import BlobStore
from backend.store.returning import is_asked_for
from backend.store.tables import Annotation, Project, QueueEntry, Tile
from mpamatch.domain.classes import IGNORE
from mpamatch.domain.masks import Mask
from mpamatch.domain.tiling import Box
from mpamatch.errors import BadInput, Conflict, NotFound
from mpamatch.files.rasters import decode_class_ids

Scope = Literal["whole tile", "only the boxes", "artefact", "cannot tell"]


@dataclass(frozen=True)
class Answer:
    """As it came. ``mask``: a PNG of class ids, 255 where nothing is said; none for an artefact and cannot tell.

    ``shown_version``: the model whose suggestion it was drawn on, None when it was drawn from nothing.
    """

    scope: Scope
    mask: bytes | None = None
    shown_version: str | None = None
    seconds: float | None = None

    def to_bytes(self, attempt: int) -> bytes:
        """For keeping: the same answer under the same attempt gives the same bytes."""
        mask = None if self.mask is None else base64.b64encode(self.mask).decode()
        kept = {"scope": self.scope, "mask": mask, "shown_version": self.shown_version, "attempt": attempt}
        return json.dumps({**kept, "seconds": self.seconds}, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, kept: bytes) -> Answer:
        values: dict[str, Any] = json.loads(kept)
        mask = None if values["mask"] is None else base64.b64decode(values["mask"])
        return cls(values["scope"], mask, values["shown_version"], values["seconds"])


def answer_tile(
    session: Session,
    blobs: BlobStore,
    project: Project,
    tile_id: int,
    answer: Answer,
    *,
    holder: str,
    attempt: int,
    now: datetime,
) -> Annotation:
    """Keep an answer: ``present`` when it counts, ``draft`` (its ``problem`` says why) when it comes too late.

    The same answer sent again is the same annotation. Raises BadInput for a mask that cannot be read, before anything
    is kept, and NotFound for a tile of another project.
    """
    tile = _locked(session, project, tile_id)
    reading = _read(session, blobs, project, tile, answer)
    kept = blobs.put(answer.to_bytes(attempt))
    known = same_answer(session, tile.id, holder=holder, result_blob=kept)
    if known is not None:
        return known
    late = leases.finish(session, project.id, tile.id, holder=holder, attempt=attempt, now=now)
    row = Annotation(
        project_id=project.id,
        tile_id=tile.id,
        holder=holder,
        scope=answer.scope,
        result_blob=kept,
        lead_time_s=answer.seconds,
        shown_version=answer.shown_version,
        updated_at=now,
        state="present" if late is None else "draft",
        problem=late,
    )
    session.add(row)
    session.flush()
    if late is None:
        _count(session, blobs, project, row, reading)
    _tell(session, row, actor=holder)
    return row


def leave_out(
    session: Session,
    blobs: BlobStore,
    project: Project,
    tile_id: int,
    *,
    holder: str,
    attempt: int,
    reason: str,
    now: datetime,
) -> QueueEntry:
    """Nobody is asked for the tile any more. Raises Conflict when it is not held so."""
    entry = leases.skip(session, project.id, tile_id, holder=holder, attempt=attempt, reason=reason, now=now)
    row = Annotation(
        project_id=project.id,
        tile_id=tile_id,
        holder=holder,
        result_blob=blobs.put(json.dumps({"reason": reason, "attempt": attempt}, sort_keys=True).encode()),
        updated_at=now,
        state="skipped",
    )
    session.add(row)
    session.flush()
    _tell(session, row, actor=holder)
    return entry


def take_back(
    session: Session, blobs: BlobStore, project: Project, number: int, *, actor: str, now: datetime
) -> Annotation:
    """Take an answer to the queue back: its mask counts no more, an artefact is none any more, and its tile is asked
    for again, unless what others answered is all that is asked of it. Rows stay.

    Raises NotFound, and Conflict when it was taken back before.
    """
    row = _answer(session, project, number)
    tile = _locked(session, project, row.tile_id)
    session.refresh(row)
    if row.state == "deleted":
        raise Conflict(f"answer {number}", "was taken back before", "nothing is left to do")
    row.state, row.problem = "deleted", None
    withdraw(session, blobs, row, now=now)
    if is_asked_for(session, project, tile.id):
        leases.open_again(session, project.id, tile.id, actor=actor)
    _tell(session, row, actor=actor)
    return row


def drafts(session: Session, project: Project) -> Sequence[Annotation]:
    """Answers that came too late and wait for a decision, the oldest first."""
    return session.scalars(
        select(Annotation)
        .where(Annotation.project_id == project.id, Annotation.state == "draft")
        .order_by(Annotation.id)
    ).all()


def use_draft(
    session: Session, blobs: BlobStore, project: Project, number: int, *, actor: str, now: datetime
) -> Annotation:
    """Let a draft count after all, as the newest word on its tile.

    Raises NotFound, and Conflict when it is no draft any more or somebody is at work on its tile.
    """
    row = _answer(session, project, number)
    tile = _locked(session, project, row.tile_id)
    session.refresh(row)
    if row.state != "draft":
        raise Conflict(f"draft {number}", f"is {row.state} already", "see `mpamatch queue drafts`")
    leases.hold_order(session, project.id)
    entry = queue.of_tiles(session, project, [tile.id]).get(tile.id)
    if entry is not None and entry.state == "leased":
        raise Conflict(f"tile {tile.id}", "is with somebody now", "wait until it is labelled or given back")
    answer = Answer.from_bytes(blobs.get(row.result_blob))
    reading = _read(session, blobs, project, tile, answer)
    row.state, row.problem, row.updated_at = "present", None, now
    session.flush()
    _count(session, blobs, project, row, reading)
    queue.set_state(session, project, [tile.id], "done")
    _tell(session, row, actor=actor)
    return row


def _answer(session: Session, project: Project, number: int) -> Annotation:
    """An answer to this project's queue. Raises NotFound."""
    row = session.get(Annotation, number) if 0 < number < 1 << 63 else None
    if row is None or row.project_id != project.id or row.holder is None:
        raise NotFound(f"answer {number}", "does not exist", "see `mpamatch queue drafts`, or what submitting answered")
    return row


def _locked(session: Session, project: Project, tile_id: int) -> Tile:
    """One at a time for a tile, as for labels from Label Studio. Raises NotFound."""
    row = session.scalars(
        select(Tile).where(Tile.project_id == project.id, Tile.id == tile_id).with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound(f"tile {tile_id}", "does not exist", "see the tiles of this project")
    return row


def _read(session: Session, blobs: BlobStore, project: Project, tile: Tile, answer: Answer) -> MaskReading:
    """What an answer stands for. Raises BadInput."""
    width_px, height_px = tile.size_px
    if answer.scope not in (WHOLE_TILE, ONLY_BOXES):
        nothing = np.zeros((height_px, width_px), np.uint8)
        return read_class_map(nothing, nothing, scope=answer.scope, inside=nothing.astype(bool), untouched=False)
    class_map = _class_map(answer.mask, (width_px, height_px), projects.classes_of(project).count)
    shown = None
    inside = np.zeros(class_map.shape, bool)
    if answer.shown_version is not None:
        found = show_tile.read_shown(session, project, answer.shown_version, [tile.id], every_region=True).get(tile.id)
        if found is None:
            problem = f"{answer.shown_version!r} was not shown for tile {tile.id}"
            raise BadInput("shown_version", problem, "send the `model_version` of the lease, or none")
        shown = None if found.class_blob is None else show_tile.class_map_of(blobs, found)
        for region in found.regions:
            _mark(inside, Box(region.x_px, region.y_px, region.width_px, region.height_px))
    before = np.zeros_like(class_map) if shown is None else shown
    reading = read_class_map(class_map, before, scope=answer.scope, inside=inside, untouched=shown is not None)
    if reading.reviewed_share == 0:
        raise BadInput("mask", "says nothing of any pixel that counts", "draw, or answer `cannot tell`")
    return reading


def _class_map(png: bytes | None, size_px: tuple[int, int], class_count: int) -> Mask:
    if png is None:
        raise BadInput("mask", "is missing", "send one, or answer `artefact` or `cannot tell`")
    class_map = decode_class_ids(png, size_px=size_px)
    strange = np.unique(class_map[(class_map >= class_count) & (class_map != IGNORE)])
    if strange.size:
        raise BadInput("mask", f"holds class id {strange[0]}", f"classes are 0..{class_count - 1}, 255 says nothing")
    return class_map


def _mark(inside: np.ndarray, box: Box) -> None:
    inside[max(box.y_px, 0) : box.y_px + box.height_px, max(box.x_px, 0) : box.x_px + box.width_px] = True


def _count(session: Session, blobs: BlobStore, project: Project, row: Annotation, reading: MaskReading) -> None:
    """The mask of an annotation that counts, and whether the tile is an artefact now."""
    prediction = None
    if row.shown_version is not None:
        prediction = predictions.by_version(session, project.id, row.shown_version, [row.tile_id]).get(row.tile_id)
    keep_mask(session, blobs, row, reading, None if prediction is None else prediction.id)


def _tell(session: Session, row: Annotation, *, actor: str) -> None:
    events.record(
        session,
        project_id=row.project_id,
        actor=actor,
        what=f"annotation {row.state}",
        subject=f"annotation:{row.id}",
        after={"tile": row.tile_id, "scope": row.scope, "problem": row.problem},
    )
