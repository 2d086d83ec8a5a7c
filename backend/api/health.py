"""Is it alive, and can it work."""

from __future__ import annotations

from fastapi import APIRouter, Request
from sqlalchemy import select

from backend.api.errors import PROBLEMS
from backend.api.parts import parts_of
from backend.store.schema import check_schema
from backend.store.tables import Tile

router = APIRouter(tags=["health"], responses=PROBLEMS)


@router.get("/health")
@router.get("/health/live")
def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "UP"}


@router.get("/health/ready")
def ready(request: Request) -> dict[str, str]:
    """Database, tables and blobs are there too; otherwise 503, whose `item` names the part.

    The broker is left out: without it wake-ups wait for the sweep, and nothing is lost.
    """
    parts = parts_of(request)
    with parts.database.transaction() as session:
        check_schema(session)
        filled = session.scalar(select(Tile.id).limit(1)) is not None
    parts.blobs.check(filled=filled)
    return {"status": "READY"}
