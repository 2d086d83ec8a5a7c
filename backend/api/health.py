"""Is it alive, and can it work."""

from __future__ import annotations

from fastapi import APIRouter, Request
from sqlalchemy import text

from backend.api.parts import parts_of

router = APIRouter(tags=["health"])


@router.get("/health")
@router.get("/health/live")
def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "UP"}


@router.get("/health/ready")
def ready(request: Request) -> dict[str, str]:
    """The database answers too; 503 otherwise."""
    with parts_of(request).database.transaction() as session:
        session.execute(text("SELECT 1"))
    return {"status": "READY"}
