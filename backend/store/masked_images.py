"""Images with their counting masks, and the names under which their files leave and come back."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from backend.store.tables import Image, Mask, Tile

ORIGINS = ("imported", "annotated", "confirmed")
_NAME_LIMIT = 150


@dataclass(frozen=True)
class MaskedTile:
    """A tile and the version of its mask that counts."""

    tile: Tile
    origin: str
    version: int
    blob: str


@dataclass(frozen=True)
class MaskedImage:
    """An image with its masked tiles, by tile id."""

    image: Image
    name: str
    tiles: tuple[MaskedTile, ...]


def masked_images(session: Session, project_id: int, *, origins: Iterable[str] = ORIGINS) -> Iterator[MaskedImage]:
    """Every ready image with a tile whose counting mask is of one of the origins and says something, by image id.

    A tile whose newest mask is of another origin is left out: an older version does not count any more.
    """
    newest = (
        select(Mask.tile_id, func.max(Mask.version).label("version"))
        .where(Mask.withdrawn_at.is_(None))
        .group_by(Mask.tile_id)
        .subquery()
    )
    rows = session.execute(
        select(Tile, Mask.origin, Mask.version, Mask.blob)
        .join(Image, Image.id == Tile.image_id)
        .join(newest, newest.c.tile_id == Tile.id)
        .join(Mask, (Mask.tile_id == Tile.id) & (Mask.version == newest.c.version))
        .where(
            Tile.project_id == project_id,
            Tile.state == "ready",
            Image.state == "ready",
            Mask.reviewed_share > 0,
            Mask.origin.in_(sorted(origins)),
        )
        .order_by(Tile.image_id, Tile.id)
    )
    tiles: dict[int, list[MaskedTile]] = {}
    for tile, origin, version, blob in rows:
        tiles.setdefault(tile.image_id, []).append(MaskedTile(tile, origin, version, blob))
    names = names_of(session, project_id)
    for image_id, found in tiles.items():
        yield MaskedImage(session.get_one(Image, image_id), names[image_id], tuple(found))


def names_of(session: Session, project_id: int) -> dict[int, str]:
    """A file name without suffix for every image of a project, by image id; its number is added where two agree."""
    rows = session.execute(select(Image.id, Image.uri).where(Image.project_id == project_id).order_by(Image.id))
    stems = {image_id: file_stem(uri) for image_id, uri in rows}
    count = Counter(stem.casefold() for stem in stems.values())
    return {i: stem if count[stem.casefold()] == 1 else f"{stem}-{i}" for i, stem in stems.items()}


def file_stem(uri: str) -> str:
    """The image's file name without suffix, as a name that any file system takes."""
    name = uri.rsplit("/", 1)[-1].removeprefix("label-studio:")
    stem = re.sub(r"[^\w .,()+=@-]", "_", PurePosixPath(name).stem).strip(" .")
    return stem[:_NAME_LIMIT] or "image"


def find_image(session: Session, project_id: int, name: str, names: Mapping[int, str]) -> Image | None:
    """The image that a file's name (without suffix) means: the name that we gave it, or its id."""
    found = [i for i, known in names.items() if known.casefold() == name.casefold()]
    if not found and name.isascii() and name.isdigit() and int(name) in names:
        found = [int(name)]
    return session.get(Image, found[0]) if len(found) == 1 else None
