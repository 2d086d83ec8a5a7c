"""Pictures of tiles, outlines of prediction and mask, a run's curves: under the session, of this project only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from backend.actions.see_tile import counting_mask, get_tile, is_blind
from backend.dashboard.parts import chosen, parts_of
from backend.dashboard.pictures import THUMBNAIL_PX, heat, outlines, thumbnail
from backend.store import predictions, projects, runs
from backend.store.tables import Image, Prediction, Project, Tile
from mpamatch.files.rasters import decode_raster


def picture(request: Request) -> Response:
    """The tile as it was registered, one to one with mask pixels."""
    parts = parts_of(request)
    blob = _png_blob(request)
    return _answer(request, "picture", blob, "image/png", lambda: parts.blobs.get(blob))


def small(request: Request) -> Response:
    """The same for lists."""
    parts = parts_of(request)
    blob = _png_blob(request)
    return _answer(request, "small", blob, "image/jpeg", lambda: thumbnail(parts.blobs.get(blob)))


def prediction(request: Request) -> Response:
    """Outlines of what the champion says; 404 where nothing is to be shown."""
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = chosen(session, request)
        blob = _shown(session, project, request).class_blob
        colours = [c.colour for c in projects.classes_of(project).classes]
    return _answer(
        request,
        f"prediction-{'-'.join(colours)}",
        blob,
        "image/png",
        lambda: outlines(decode_raster(parts.blobs.get(blob)), colours, dashed=False),
    )


def uncertainty(request: Request) -> Response:
    """How unsure the champion is, pixel by pixel; 404 where nothing is to be shown."""
    return _uncertainty(request, side_px=None)


def small_uncertainty(request: Request) -> Response:
    """The same in the size of the small picture, to lay over it."""
    return _uncertainty(request, side_px=THUMBNAIL_PX)


def _uncertainty(request: Request, *, side_px: int | None) -> Response:
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = chosen(session, request)
        blob = _shown(session, project, request).confidence_blob
        lowest = 1 / projects.classes_of(project).count
    return _answer(
        request,
        f"uncertainty-{lowest:.4f}-{side_px}",
        blob,
        "image/png",
        lambda: heat(decode_raster(parts.blobs.get(blob)), lowest=lowest, side_px=side_px),
    )


def mask(request: Request) -> Response:
    """Outlines of the mask that counts, dashed."""
    parts = parts_of(request)
    with parts.database.transaction() as session:
        project = chosen(session, request)
        tile = get_tile(session, project, request.path_params["tile_id"])
        found = counting_mask(session, tile.id)
        if found is None:
            raise HTTPException(404, "no mask yet")
        blob, colours = found.blob, [c.colour for c in projects.classes_of(project).classes]
    return _answer(
        request,
        f"mask-{'-'.join(colours)}",
        blob,
        "image/png",
        lambda: outlines(decode_raster(parts.blobs.get(blob)), colours, dashed=True),
    )


def curves(request: Request) -> Response:
    """A run's figures over its steps, as its training drew them; 404 until it has ended."""
    parts = parts_of(request)
    with parts.database.transaction() as session:
        blob = runs.by_number(session, chosen(session, request).id, request.path_params["number"]).curves_blob
    if blob is None:
        raise HTTPException(404, "no picture yet")
    return _answer(request, "curves", blob, "image/png", lambda: parts.blobs.get(blob))


def _shown(session: Session, project: Project, request: Request) -> Prediction:
    """The champion's prediction of the tile, where people may see it."""
    tile = get_tile(session, project, request.path_params["tile_id"])
    champion = projects.champion(session, project)
    found = predictions.of(session, tile.id, champion.id)
    if found is None or champion.kind == "blank" or is_blind(session, tile, _split(session, tile)):
        raise HTTPException(404, "no prediction to show")
    return found


def _split(session: Session, tile: Tile) -> str:
    return tile.split or session.get_one(Image, tile.image_id).split


def _png_blob(request: Request) -> str:
    with parts_of(request).database.transaction() as session:
        return get_tile(session, chosen(session, request), request.path_params["tile_id"]).png_blob


def _answer(request: Request, purpose: str, blob: str, kind: str, make: Callable[[], bytes]) -> Response:
    """Blobs never change, so an unchanged one costs a line; the session is asked every time."""
    tag = f'"{hashlib.sha256(f"{purpose}:{blob}".encode()).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if request.headers.get("If-None-Match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(make(), media_type=kind, headers=headers)
