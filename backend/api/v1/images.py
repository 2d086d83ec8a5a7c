"""Images and tiles as rows: sizes, places, states. A file's folder stays here: it may name a patient."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.actions.show_tile import class_map_of, link, read_shown
from backend.api.bearer import Viewer
from backend.api.parts import parts_of
from backend.api.v1.problems import READS
from backend.api.v1.shapes import Id, Line, Page, Paging, PathId, ProjectKey, Shape, page_by_id
from backend.clock import utc_now
from backend.store import images
from backend.store.images import tile_split
from backend.store.tables import Image, Project, Tile
from mpamatch.errors import NotFound
from mpamatch.files.rasters import encode_raster

router = APIRouter(prefix="/api/v1/projects/{key}", tags=["images"], responses=READS)

# A capability for one picture, for the one who just asked for it.
PICTURE_LIFE = timedelta(hours=1)


class ImageShape(Shape):
    id: int
    name: str
    sha256: str
    width_px: int
    height_px: int
    um_per_px: float | None
    group: str
    split: str
    state: str
    problem: str | None


class TileShape(Shape):
    """Position and size in level-0 pixels of its image; ``scale``: of those, how many make one of its picture.

    ``split``: what counts for this tile, also where its image's is another.
    """

    id: int
    image_id: int
    x_px: int
    y_px: int
    width_px: int
    height_px: int
    scale: float
    tissue_share: float
    split: str
    state: str


class TileDetail(TileShape):
    """``picture``: an address of its PNG that is valid for an hour and needs no token."""

    picture: str


class ImageFilters(Paging):
    split: Literal["train", "audit"] | None = None
    state: Literal["registered", "ready", "quarantined"] | None = None
    group: Line | None = None


class TileFilters(Paging):
    split: Literal["train", "audit"] | None = None
    state: Literal["ready", "artefact"] | None = None
    image_id: Id | None = None


@router.get("/images")
def list_images(
    request: Request, caller: Viewer, key: ProjectKey, filters: Annotated[ImageFilters, Query()]
) -> Page[ImageShape]:
    """The images of a project, in the order in which they were registered."""
    with parts_of(request).database.transaction() as session:
        query = select(Image).where(Image.project_id == caller.project(session, key).id)
        if filters.split is not None:
            query = query.where(Image.split == filters.split)
        if filters.state is not None:
            query = query.where(Image.state == filters.state)
        if filters.group is not None:
            query = query.where(Image.group_name == filters.group)
        rows, cursor = page_by_id(session, query, Image.id, filters, "images")
        return Page(items=[_image(row[0]) for row in rows], next_cursor=cursor)


@router.get("/images/{image_id}")
def show_image(request: Request, caller: Viewer, key: ProjectKey, image_id: PathId) -> ImageShape:
    """One image."""
    with parts_of(request).database.transaction() as session:
        project = caller.project(session, key)
        row = session.scalars(select(Image).where(Image.project_id == project.id, Image.id == image_id)).one_or_none()
        if row is None:
            raise NotFound(f"image {image_id}", "does not exist", "see the images of this project")
        return _image(row)


@router.get("/tiles")
def list_tiles(
    request: Request, caller: Viewer, key: ProjectKey, filters: Annotated[TileFilters, Query()]
) -> Page[TileShape]:
    """The tiles of a project, or of one of its images."""
    with parts_of(request).database.transaction() as session:
        query = (
            select(Tile, tile_split)
            .join(Image, Image.id == Tile.image_id)
            .where(Tile.project_id == caller.project(session, key).id)
        )
        if filters.split is not None:
            query = query.where(tile_split == filters.split)
        if filters.state is not None:
            query = query.where(Tile.state == filters.state)
        if filters.image_id is not None:
            query = query.where(Tile.image_id == filters.image_id)
        rows, cursor = page_by_id(session, query, Tile.id, filters, "tiles")
        return Page(items=[_tile(*row) for row in rows], next_cursor=cursor)


@router.get("/tiles/{tile_id}")
def show_tile(request: Request, caller: Viewer, key: ProjectKey, tile_id: PathId) -> TileDetail:
    """One tile, with an address of its picture."""
    parts = parts_of(request)
    with parts.database.transaction() as session:
        row = tile_of(session, caller.project(session, key), tile_id)
        shape = _tile(row, row.split or session.get_one(Image, row.image_id).split)
    picture = link(parts.keys, parts.settings.api_address, row.id, utc_now() + PICTURE_LIFE, purpose="look")
    return TileDetail(**shape.model_dump(), picture=picture)


@router.get(
    "/tiles/{tile_id}/suggestion.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "Class ids, 8-bit grey, of the picture's size"}},
)
def suggestion(
    request: Request,
    caller: Viewer,
    key: ProjectKey,
    tile_id: PathId,
    model_version: Annotated[str, Query(pattern=r"^[!-~]{1,100}$", description="as a lease names it")],
) -> Response:
    """What a model says of a tile, to draw on. 404 where it has said nothing, and for audit tiles, which are drawn
    blind."""
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = caller.project(session, key)
        tile_of(session, project, tile_id)
        shown = read_shown(session, project, model_version, [tile_id]).get(tile_id)
    if shown is None or shown.class_blob is None:
        raise NotFound(f"tile {tile_id}", "has no suggestion of this model to show", "draw it from nothing")
    return Response(encode_raster(class_map_of(parts.blobs, shown)), media_type="image/png")


def tile_of(session: Session, project: Project, tile_id: int) -> Tile:
    """A tile of this project. Raises NotFound, also for one of another project."""
    row = session.scalars(select(Tile).where(Tile.project_id == project.id, Tile.id == tile_id)).one_or_none()
    if row is None:
        raise NotFound(f"tile {tile_id}", "does not exist", "see the tiles of this project")
    return row


def _image(row: Image) -> ImageShape:
    return ImageShape(
        id=row.id,
        name=images.shown_name(row),
        sha256=row.sha256,
        width_px=row.width_px,
        height_px=row.height_px,
        um_per_px=row.um_per_px,
        group=row.group_name,
        split=row.split,
        state=row.state,
        problem=images.shown_problem(row),
    )


def _tile(row: Tile, split: str) -> TileShape:
    return TileShape(
        id=row.id,
        image_id=row.image_id,
        x_px=row.x_px,
        y_px=row.y_px,
        width_px=row.width_px,
        height_px=row.height_px,
        scale=row.scale,
        tissue_share=row.tissue_share,
        split=split,
        state=row.state,
    )
