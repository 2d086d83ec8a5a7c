"""Images and their tiles: registering once per content, and listing what a project holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from backend.store import events
from backend.store.tables import Image, Project, Tile
from mpamatch.domain.states import check_move


@dataclass(frozen=True)
class PoolTile:
    """A tile that may train or be queued."""

    tile_id: int
    image_id: int
    png_blob: str
    group: str
    split: str


def lock_registration(session: Session, project_id: int) -> None:
    """Registrations of one project take turns, so that splits are decided once per group."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update())


def known_splits(session: Session, project_id: int) -> dict[str, str]:
    """Every group that has a split already; it keeps it for good."""
    rows = session.execute(select(Image.group_name, Image.split).where(Image.project_id == project_id).distinct())
    return {row[0]: row[1] for row in rows}


def by_hash(session: Session, project_id: int, sha256: str) -> Image | None:
    return session.scalars(select(Image).where(Image.project_id == project_id, Image.sha256 == sha256)).one_or_none()


def tiles_of(session: Session, image_id: int) -> Sequence[Tile]:
    return session.scalars(select(Tile).where(Tile.image_id == image_id).order_by(Tile.id)).all()


def pool(session: Session, project_id: int, *, split: str | None = None) -> list[PoolTile]:
    """All ready tiles of a project, by id."""
    query = (
        select(Tile.id, Tile.image_id, Tile.png_blob, Image.group_name, Image.split)
        .join(Image, Image.id == Tile.image_id)
        .where(Tile.project_id == project_id, Tile.state == "ready", Image.state == "ready")
        .order_by(Tile.id)
    )
    if split is not None:
        query = query.where(Image.split == split)
    return [PoolTile(*row) for row in session.execute(query)]


def counts(session: Session, project_id: int) -> dict[str, int]:
    """Images and ready tiles by split, and what was set aside."""
    found = {"images": 0, "quarantined": 0, "train_tiles": 0, "audit_tiles": 0}
    for state, n in session.execute(
        select(Image.state, func.count()).where(Image.project_id == project_id).group_by(Image.state)
    ):
        found["images" if state == "ready" else "quarantined"] += n
    for split, n in session.execute(
        select(Image.split, func.count())
        .join(Tile, Tile.image_id == Image.id)
        .where(Image.project_id == project_id, Image.state == "ready", Tile.state == "ready")
        .group_by(Image.split)
    ):
        found[f"{split}_tiles"] = n
    return found


def want(session: Session, tile_ids: Iterable[int], *, now: datetime) -> None:
    """Let tiles that somebody has open jump the prediction line."""
    session.execute(update(Tile).where(Tile.id.in_(list(tile_ids))).values(wanted_at=now))


def quarantine(session: Session, image_id: int, problem: str, *, actor: str) -> bool:
    """Set an image aside with the reason, so that the rest goes on without it; False when it is set aside already."""
    image = session.get_one(Image, image_id, with_for_update=True)
    if image.state == "quarantined":
        return False
    check_move("image", image.state, "quarantined")
    before, image.state, image.problem = image.state, "quarantined", problem
    events.record(
        session,
        project_id=image.project_id,
        actor=actor,
        what="image quarantined",
        subject=f"image:{image.id}",
        before={"state": before},
        after={"state": "quarantined", "problem": problem},
    )
    return True


def audit_tiles(session: Session, tile_ids: Iterable[int]) -> frozenset[int]:
    """Those of some tiles that only judge and report."""
    query = (
        select(Tile.id)
        .join(Image, Image.id == Tile.image_id)
        .where(Tile.id.in_(sorted(tile_ids)), Image.split == "audit")
    )
    return frozenset(session.scalars(query))
