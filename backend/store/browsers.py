"""Sessions of the dashboard as rows, so that one that ended stays ended whatever is started anew.

A row is found by the digest of the random number in the cookie; the number itself is kept nowhere.
"""

from __future__ import annotations

import hashlib
from datetime import datetime

from sqlalchemy import delete, or_, select, update
from sqlalchemy.orm import Session as DatabaseSession

from backend.store.tables import Session, Token


def begin(session: DatabaseSession, nonce: str, *, token_id: int | None, now: datetime) -> None:
    """Note a session that begins; ``token_id`` None for the token of the state folder."""
    session.add(Session(digest=_digest(nonce), token_id=token_id, opened_at=now))


def is_open(session: DatabaseSession, nonce: str, *, now: datetime) -> bool:
    """Whether it was opened here, nobody signed out of it, and the token it was opened with may still be used."""
    usable = (Token.revoked_at.is_(None)) & or_(Token.expires_at.is_(None), Token.expires_at > now)
    query = (
        select(Session.id)
        .outerjoin(Token, Token.id == Session.token_id)
        .where(Session.digest == _digest(nonce), Session.ended_at.is_(None), or_(Session.token_id.is_(None), usable))
    )
    return session.scalar(query) is not None


def end(session: DatabaseSession, nonce: str, *, now: datetime) -> None:
    """Refuse it from now on, in every process, also to one who copied the cookie."""
    session.execute(
        update(Session).where(Session.digest == _digest(nonce), Session.ended_at.is_(None)).values(ended_at=now)
    )


def forget(session: DatabaseSession, *, opened_before: datetime) -> None:
    """Drop those that are over by their age; their cookies are refused for it."""
    session.execute(delete(Session).where(Session.opened_at < opened_before))


def _digest(nonce: str) -> bytes:
    return hashlib.sha256(nonce.encode("utf-8", "replace")).digest()
