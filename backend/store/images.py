"""Images and their tiles: registering once per content, and listing what a project holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, func, select, update
from sqlalchemy.orm import Session

from backend.store import events
from backend.store.tables import Image, Project, Tile
from mpamatch.domain.states import check_move

# The split of a tile, in queries that join its image: its own where it has one, else the image's.
tile_split: ColumnElement[str] = func.coalesce(Tile.split, Image.split)


@dataclass(frozen=True)
class PoolTile:
    """A tile that may train or be queued."""

    tile_id: int
    image_id: int
    png_blob: str
    group: str
    split: str
    um_per_px: float | None = None


def lock_registration(session: Session, project_id: int) -> None:
    """Registrations of one project take turns, so that splits are decided once per group."""
    session.execute(select(Project.id).where(Project.id == project_id).with_for_update())


def known_splits(session: Session, project_id: int) -> dict[str, str]:
    """Every group that has a split already; it keeps it for good."""
    rows = session.execute(select(Image.group_name, Image.split).where(Image.project_id == project_id).distinct())
    return {row[0]: row[1] for row in rows}


def parted_groups(session: Session, project_id: int) -> frozenset[str]:
    """Groups of which a slide has an audit block: their later slides get one too, or tissue would be in both splits."""
    rows = session.scalars(
        select(Image.group_name)
        .join(Tile, Tile.image_id == Image.id)
        .where(Image.project_id == project_id, Tile.split.is_not(None), Tile.split != Image.split)
        .distinct()
    )
    return frozenset(rows)


def groups_of_files(session: Session, project_id: int) -> list[tuple[str, str]]:
    """(file, group) of every image that is in use."""
    query = select(Image.uri, Image.group_name).where(Image.project_id == project_id, Image.state == "ready")
    return [(row[0], row[1]) for row in session.execute(query.order_by(Image.id))]


def by_hash(session: Session, project_id: int, sha256: str) -> Image | None:
    return session.scalars(select(Image).where(Image.project_id == project_id, Image.sha256 == sha256)).one_or_none()


def tiles_of(session: Session, image_id: int) -> Sequence[Tile]:
    return session.scalars(select(Tile).where(Tile.image_id == image_id).order_by(Tile.id)).all()


def tile_um_per_px(session: Session, tile: Tile) -> float | None:
    """The micrometres of one pixel of a tile's picture; None where its image's are unknown."""
    um_per_px = session.get_one(Image, tile.image_id).um_per_px
    return None if um_per_px is None else um_per_px * tile.scale


def pool(session: Session, project_id: int, *, split: str | None = None) -> list[PoolTile]:
    """All ready tiles of a project, by id."""
    return [PoolTile(*row) for row in session.execute(pool_query(project_id, split=split))]


def pool_query(project_id: int, *, split: str | None = None) -> Select[*tuple[Any, ...]]:
    """What :func:`pool` reads, for queries that ask for more: each row makes a :class:`PoolTile`."""
    query = (
        select(Tile.id, Tile.image_id, Tile.png_blob, Image.group_name, tile_split, Image.um_per_px * Tile.scale)
        .join(Image, Image.id == Tile.image_id)
        .where(Tile.project_id == project_id, Tile.state == "ready", Image.state == "ready")
        .order_by(Tile.id)
    )
    return query if split is None else query.where(tile_split == split)


def any_ready(session: Session, project_id: int) -> bool:
    """Whether the project has an image that can be worked with."""
    ready = select(Image.id).where(Image.project_id == project_id, Image.state == "ready").limit(1)
    return session.scalar(ready) is not None


def counts(session: Session, project_id: int) -> dict[str, int]:
    """Images and ready tiles by split, and what was set aside."""
    found = {"images": 0, "quarantined": 0, "train_tiles": 0, "audit_tiles": 0}
    for state, n in session.execute(
        select(Image.state, func.count()).where(Image.project_id == project_id).group_by(Image.state)
    ):
        found["images" if state == "ready" else "quarantined"] += n
    for split, n in session.execute(
        select(tile_split, func.count())
        .select_from(Image)
        .join(Tile, Tile.image_id == Image.id)
        .where(Image.project_id == project_id, Image.state == "ready", Tile.state == "ready")
        .group_by(tile_split)
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
        .where(Tile.id.in_(sorted(tile_ids)), tile_split == "audit")
    )
    return frozenset(session.scalars(query))


def shown_name(image: Image) -> str:
    """The name of its file; the folder stays here, since it may name a patient."""
    return image.uri.replace("\\", "/").rsplit("/", 1)[-1]


def shown_problem(image: Image) -> str | None:
    """Why it was set aside, without its folder: rows of earlier versions have it."""
    return None if image.problem is None else image.problem.replace(image.uri, shown_name(image))
