"""Tokens of the API: made once, shown once, kept as a digest, found by their public half.

A token is 256 random bits. Nobody can go through them, so one plain SHA-256 is enough to keep them by: a slow hash with
salt protects short secrets that people choose, and here it would only slow down every request. The digest still keeps
whoever reads the table (or a backup of it) from using what stands there.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.store import events
from backend.store.tables import Token
from mpamatch.errors import BadInput, Conflict, NotFound

Role = Literal["viewer", "annotator", "operator"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)  # each may do what the ones before it may
# So that people and the scanners of code hosts know one when they see it.
PREFIX: Final = "mpa"
_FORM = re.compile(rf"{PREFIX}_([0-9a-f]{{12}})_([A-Za-z0-9_-]{{43}})")
# Compared with when there is no such row, so that an answer's time does not tell whether there is.
_NOBODY: Final = bytes(32)
# A write for each request would cost more than the minute is worth.
_NOTE_AGAIN: Final = timedelta(minutes=1)


@dataclass(frozen=True)
class NewToken:
    """A row just made and the one sight of its token."""

    row: Token
    token: str = field(repr=False)


def create(
    session: Session,
    *,
    name: str,
    role: Role,
    project_id: int | None,
    expires_at: datetime | None,
    now: datetime,
    actor: str,
) -> NewToken:
    """Make a token. Raises BadInput for a name that says nothing, an unknown role, or an end in the past."""
    name = name.strip()
    if not name or len(name) > 100 or not name.isprintable():
        raise BadInput("token name", "is empty, too long or not printable", "say for whom or what it is made")
    if role not in ROLES:
        raise BadInput(f"role {role!r}", "does not exist", f"use one of: {', '.join(ROLES)}")
    if expires_at is not None and expires_at <= now:
        raise BadInput("token", "would have expired already", "give an end in the future")
    key_id = secrets.token_hex(6)
    token = f"{PREFIX}_{key_id}_{secrets.token_urlsafe(32)}"
    row = Token(
        key_id=key_id,
        name=name,
        role=role,
        digest=_digest(token),
        project_id=project_id,
        created_at=now,
        expires_at=expires_at,
    )
    session.add(row)
    session.flush()
    events.record(
        session,
        project_id=project_id,
        actor=actor,
        what="token created",
        subject=f"token:{row.id}",
        after={"key_id": key_id, "role": role, "expires_at": None if expires_at is None else expires_at.isoformat()},
    )
    return NewToken(row, token)


def authenticate(session: Session, given: str, *, now: datetime) -> Token | None:
    """The row of a token that may be used now; None for an unknown, changed, revoked or expired one."""
    found = _FORM.fullmatch(given)
    if found is None:
        return None
    row = session.scalars(select(Token).where(Token.key_id == found[1])).one_or_none()
    genuine = hmac.compare_digest(_digest(given), _NOBODY if row is None else row.digest)
    if row is None or not genuine or not usable(row, now=now):
        return None
    if row.last_used_at is None or row.last_used_at < now - _NOTE_AGAIN:
        session.execute(update(Token).where(Token.id == row.id).values(last_used_at=now))
    return row


def usable(row: Token, *, now: datetime) -> bool:
    """Whether a token is neither revoked nor past its end."""
    return row.revoked_at is None and (row.expires_at is None or now < row.expires_at)


def all_of(session: Session) -> Sequence[Token]:
    """Every token that was ever made, the oldest first; who held what belongs to the log."""
    return session.scalars(select(Token).order_by(Token.id)).all()


def revoke(session: Session, key_id: str, *, now: datetime, actor: str) -> Token:
    """End a token at once. Raises NotFound, and Conflict when it was revoked before."""
    row = session.scalars(select(Token).where(Token.key_id == key_id).with_for_update()).one_or_none()
    if row is None:
        raise NotFound(f"token {key_id[:40]!r}", "does not exist", "see `mpamatch tokens list`")
    if row.revoked_at is not None:
        raise Conflict(f"token {key_id}", "is revoked already", "see `mpamatch tokens list`")
    row.revoked_at = now
    events.record(
        session,
        project_id=row.project_id,
        actor=actor,
        what="token revoked",
        subject=f"token:{row.id}",
        after={"key_id": key_id},
    )
    return row


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
