"""Pictures of tiles for Label Studio and for REST: one capability per tile, valid until a time, across origins."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from backend.actions.show_tile import Purpose, signed_words
from backend.api.errors import PROBLEMS
from backend.api.parts import parts_of
from backend.clock import utc_now
from backend.store import tasks
from backend.store.tables import Tile

router = APIRouter(tags=["tiles"], responses=PROBLEMS)

# The editor loads pictures by script from another origin and sends no cookies; the signature is the permission.
HEADERS = {
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
    # Asked for at every opening, so that we know of it; an unchanged picture costs a line.
    "Cache-Control": "private, no-cache",
    "X-Content-Type-Options": "nosniff",
}


@router.get(
    "/tiles/{tile_id}.png",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}}, 304: {"description": "As it was"}},
)
def picture(
    request: Request, tile_id: int, expires: int, key: str, signature: str, purpose: Purpose = "task"
) -> Response:
    """The PNG rendition of a tile at working resolution; 403 for a link that is expired or not ours."""
    parts = parts_of(request)
    genuine = parts.keys.signed_by_us(signed_words(tile_id, expires, purpose), signature, key_id=key)
    if not genuine or expires < utc_now().timestamp():
        raise HTTPException(403, "this picture link is not valid any more")
    with parts.database.transaction() as session:
        tile = session.get(Tile, tile_id)
        blob = None if tile is None else tile.png_blob
        # Who only looks must not keep the tile at its place in the head; nor does Label Studio's list of tasks, which
        # shows each in small. Its editor asks by script, and browsers tell the two apart.
        if purpose == "task" and request.headers.get("sec-fetch-dest") != "image":
            tasks.note_opened(session, tile_id, now=utc_now())
    if blob is None:
        raise HTTPException(404, "no such tile")
    headers = {**HEADERS, "ETag": f'"{blob}"'}
    if request.headers.get("If-None-Match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(parts.blobs.get(blob), media_type="image/png", headers=headers)
