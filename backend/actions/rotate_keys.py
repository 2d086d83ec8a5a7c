"""A new key for credentials and picture links, without connecting anew and without a picture that fails to load."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from backend.store import events
from backend.store.secrets import KeyRing
from backend.store.sessions import Database
from backend.store.tables import Project, Task

SEALED = ("ls_token", "ls_auth_password", "ls_webhook_secret")


def rotate_keys(database: Database, keys: KeyRing, *, drop_old: bool, now: datetime, actor: str) -> int:
    """Make a new key the present one and seal every credential with it; returns how many projects were touched.

    The key before it stays for the links that it signed, until the next rotation. With ``drop_old`` none stays: links
    end at once, and those in Label Studio are made anew at the next look. A kill in between loses nothing, and it can
    be done again: no key leaves the file before every credential is sealed with a later one.
    """
    with database.transaction() as session:
        _reseal(session, keys)  # what a rotation that was killed left under the key that leaves now
    keys.rotate()
    with database.transaction() as session:
        touched = _reseal(session, keys)
        if drop_old:
            session.execute(update(Task).where(Task.state == "live", Task.origin == "head").values(url_expires_at=now))
        events.record(
            session,
            project_id=None,
            actor=actor,
            what="keys rotated",
            subject="key:0",
            after={"key_id": keys.key_id, "dropped_old": drop_old},
        )
    if drop_old:
        keys.drop_old()
    return touched


def _reseal(session: Session, keys: KeyRing) -> int:
    rows = session.scalars(select(Project).order_by(Project.id).with_for_update()).all()
    for row in rows:
        for name in SEALED:
            sealed = getattr(row, name)
            if sealed is not None:
                setattr(row, name, keys.seal(keys.open(sealed)))
    return len(rows)
