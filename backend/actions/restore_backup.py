"""Restore a backup into an installation without any rows: all of it or nothing, at whatever line it is killed.

Everything is read and compared first. Blobs go in next, which nothing names yet; the state's files wait in a folder of
their own; then one transaction brings every row. Its commit is the moment: before it nothing is there, after it the
waiting files only have to be moved to their places, which the next call does when this one was killed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from backend.store import events
from backend.store.backup_manifest import LABEL_STUDIO, STATE, Manifest, rows_part
from backend.store.backup_source import BackupSource, blobs_of, named_blobs, raw_pieces, verify
from backend.store.backup_target import flush, flush_tree
from backend.store.blobs import BlobStore
from backend.store.load_rows import (
    check_blobs,
    check_tables,
    empty_out,
    end_sessions,
    forget_credentials,
    leave_label_studio,
    load,
)
from backend.store.sessions import Database
from migrations.run import knows_schema, upgrade
from mpamatch.errors import BadInput, Conflict

WAITING: Final = "restoring"
ASIDE: Final = "before-restore"
_NOTE: Final = "note.json"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RestoreReport:
    """What came back. ``set_aside``: files that were in the way; ``finished``: a call that was cut did the rest."""

    manifest: Manifest
    label_studio: bool
    secrets: bool
    set_aside: tuple[str, ...]
    finished: bool = False


def restore_backup(
    database_url: str,
    blobs: BlobStore,
    state: Path,
    source: BackupSource,
    *,
    label_studio: bool = True,
    progress: Progress = lambda stage, done, total: None,
) -> RestoreReport:
    """Bring everything back. ``label_studio``: our own one's files too, where the backup has them.

    Raises Conflict for a database with rows or a backup of a newer version, BadInput or NotFound for one that is
    damaged or was changed; nothing is there then but unnamed blobs.
    """
    manifest = source.manifest
    if not knows_schema(manifest.schema):
        problem = f"is of version {manifest.product} with tables {manifest.schema!r}, which this version does not know"
        raise Conflict(source.name, problem, "restore it with that version or a newer one")
    with_studio = label_studio and manifest.label_studio == "included"
    database = Database(database_url)
    try:
        identity = f"{manifest.made_at} {manifest.chain_head} {manifest.blob_bytes}"
        if _was_committed(database, state, identity):
            set_aside = _into_place(state)
            upgrade(database_url)
            return RestoreReport(manifest, with_studio, manifest.secrets, set_aside, finished=True)
        shutil.rmtree(state / WAITING, ignore_errors=True)
        empty_out(database.engine)
        verify(source, lambda done, total: progress("checking", done, total))
        upgrade(database_url, manifest.schema)
        check_tables(database.engine, manifest.tables, source.name)
        for done, digest in enumerate(blobs_of(source), start=1):
            blobs.put(source.blob(digest))
            progress("blobs", done, manifest.blobs)
        _keep_waiting(state, source, identity, with_studio=with_studio)
        _load(database, source, identity, with_studio=with_studio)
    finally:
        database.close()
    set_aside = _into_place(state)
    upgrade(database_url)
    return RestoreReport(manifest, with_studio, manifest.secrets, set_aside)


def _load(database: Database, source: BackupSource, identity: str, *, with_studio: bool) -> None:
    manifest = source.manifest
    with database.transaction() as session:
        connection = session.connection()
        connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))
        load(connection, manifest.tables, lambda table: raw_pieces(source, rows_part(table)), source.name)
        check_blobs(connection, named_blobs(source), source.name)
        for project in manifest.projects:
            _check_chain(connection, project.key, project.chain_head, source.name)
        if manifest.chain_head is not None:  # none before there was a chain, or a first event of no project
            _check_own_chain(connection, manifest.chain_head, source.name)
        end_sessions(connection)
        if not manifest.secrets:
            forget_credentials(connection)
        if not with_studio and manifest.label_studio in ("included", "left out"):
            leave_label_studio(connection)
        connection.execute(
            text("INSERT INTO event (actor, what, subject, after) VALUES ('restore', 'restored', 'backup', :after)"),
            {"after": json.dumps({"backup": identity})},
        )


def _check_chain(connection: Connection, key: str, head: str | None, item: str) -> None:
    """The log of what happened must be the one whose head the manifest keeps."""
    with Session(connection) as session:
        number = session.scalar(text("SELECT id FROM project WHERE key = :key"), {"key": key})
        problem = "has no such project" if number is None else None
        if number is not None and head is not None:
            problem = events.verify_chain(session, int(number), known_head=head)
    if problem is not None:
        raise BadInput(item, f"project {key}: {problem}", "take another backup")


def _check_own_chain(connection: Connection, head: str, item: str) -> None:
    """What belongs to no project, such as who made and revoked tokens, is in a chain of its own."""
    with Session(connection) as session:
        problem = events.verify_chain(session, None, known_head=head)
    if problem is not None:
        raise BadInput(item, f"the installation: {problem}", "take another backup")


# -- the state's own files ----------------------------------------------------------------------------------------


def interrupted(state: Path) -> bool:
    """Whether a restore was cut here; the same call again ends it, one way or the other."""
    return (state / WAITING).exists()


def _keep_waiting(state: Path, source: BackupSource, identity: str, *, with_studio: bool) -> None:
    waiting = state / WAITING
    waiting.mkdir(parents=True, mode=0o700)
    for name in source.manifest.parts:
        kind, _, inside = name.partition("/")
        if kind == STATE or (kind == LABEL_STUDIO and with_studio):
            target = waiting / (inside if kind == STATE else name)
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with source.open(name) as part, target.open("xb") as copy:
                target.chmod(0o600)
                shutil.copyfileobj(part, copy, 1 << 20)
    (waiting / _NOTE).write_text(json.dumps({"backup": identity}), encoding="utf-8")
    flush_tree(waiting)
    flush(state)


def _was_committed(database: Database, state: Path, identity: str) -> bool:
    """Whether the rows of the restore that left its files waiting are in. Raises Conflict for another backup's."""
    note = state / WAITING / _NOTE
    if not note.is_file():
        return False
    with database.transaction() as session:
        if session.scalar(text("SELECT to_regclass('event')")) is None:
            return False
        # The latest: the rows themselves may tell of a restore that came before the backup.
        found = session.scalar(
            text("SELECT after->>'backup' FROM event WHERE what = 'restored' ORDER BY id DESC LIMIT 1")
        )
    if found is not None and found != identity:
        raise Conflict(str(state), "holds the rows of another backup whose restore was cut", "restore that one again")
    return found == identity


def _into_place(state: Path) -> tuple[str, ...]:
    """Move what waits to its place; what is there already goes aside, and nothing is removed. Safe to repeat."""
    waiting = state / WAITING
    set_aside = []
    if waiting.is_dir():
        for path in sorted(waiting.iterdir()):
            if path.name == _NOTE:
                continue
            place = state / path.name
            if place.exists():
                aside = state / ASIDE / path.name
                if aside.exists():
                    raise Conflict(str(aside), "is in the way", f"move {state / ASIDE} elsewhere and repeat")
                aside.parent.mkdir(exist_ok=True, mode=0o700)
                place.rename(aside)
                set_aside.append(path.name)
            path.rename(place)
        flush(state)
        shutil.rmtree(waiting)
    return tuple(set_aside)
