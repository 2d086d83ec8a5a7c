"""Back up an installation while it runs: one moment of the rows, the blobs that they name, keys, Label Studio's files.

The rows come first: a blob is written before the row that names it and never changes, so whatever the rows of that
moment name is there to be copied. Label Studio's database comes after them, so that it knows every task and label that
our rows speak of; what is newer in it is taken in after a restore, as after any lost webhook.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from backend.store import events, projects
from backend.store.backup_manifest import (
    BLOB_LIST,
    LABEL_STUDIO,
    SECRET_FILES,
    STATE,
    LabelStudioPart,
    Manifest,
    Part,
    ProjectHead,
    TableRows,
    rows_part,
)
from backend.store.backup_target import BackupTarget, open_target
from backend.store.blobs import BlobStore
from backend.store.moment import Moment, open_moment
from backend.store.sessions import Database
from migrations.run import newest_schema
from mpamatch.errors import BadInput, Conflict, NotFound, Unavailable

LABEL_STUDIO_DATABASE = "label_studio.sqlite3"
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class BackupReport:
    """What was written. ``copied``: blobs that were not there from an earlier backup."""

    path: Path
    manifest: Manifest
    copied: int


def back_up(
    database: Database,
    blobs: BlobStore,
    state: Path,
    destination: Path,
    *,
    now: datetime,
    secrets: bool = True,
    label_studio: LabelStudioPart = "none",
    skip_damaged: bool = False,
    progress: Progress = lambda done, total: None,
) -> BackupReport:
    """Write a backup that appears whole or not at all.

    ``label_studio``: ``included`` copies our own one's files from the state; the other words are only noted.
    Raises Conflict while the tables are not those of this version, Unavailable for a blob that is gone or damaged
    (``skip_damaged`` names it in the manifest and goes on) and for a full disk.
    """
    _seal(database)
    with open_target(destination, now) as target:
        try:
            with open_moment(database.engine) as moment:
                made = _rows(moment, target)
            parts = dict(made.parts)
            copied, blob_bytes, count, missing = _copy_blobs(blobs, target, made, skip_damaged, progress)
            if secrets:
                parts |= _copy_files(target.parts, ((f"{STATE}/{name}", state / name) for name in SECRET_FILES))
            if label_studio == "included":
                parts |= _copy_label_studio(target.parts, state / LABEL_STUDIO)
            manifest = Manifest(
                product=importlib.metadata.version("mpamatch"),
                schema=made.schema,
                made_at=now.isoformat(),
                tables=made.tables,
                parts=parts,
                projects=made.projects,
                chain_head=made.chain_head,
                blobs=count,
                blob_bytes=blob_bytes,
                missing=missing,
                secrets=secrets,
                label_studio=label_studio,
            )
            target.finish(manifest)
        except OSError as error:
            problem = f"could not be written ({error.strerror or type(error).__name__})"
            raise Unavailable(str(destination), problem, "free disk space, or name another folder") from error
    return BackupReport(target.path, manifest, copied)


@dataclass(frozen=True)
class _Rows:
    schema: str
    tables: dict[str, TableRows]
    parts: dict[str, Part]
    projects: tuple[ProjectHead, ...]
    chain_head: str | None


def _seal(database: Database) -> None:
    """Seal what is not sealed yet, so that the heads in the manifest cover it."""
    with database.transaction() as session:
        numbers = [None, *(project.id for project in projects.all_of(session))]
    for number in numbers:
        sealed = 1
        while sealed:  # a batch at a time
            with database.transaction() as session:
                sealed = events.seal(session, number)


def _rows(moment: Moment, target: BackupTarget) -> _Rows:
    if moment.schema != newest_schema():
        problem = f"has the tables of {moment.schema or 'no version'}, this version those of {newest_schema()}"
        raise Conflict("database", problem, "start `mpamatch up` of this version once, which brings them up to date")
    tables = moment.tables()
    parts = {
        rows_part(name): moment.write_rows(name, rows.columns, target.parts / rows_part(name))
        for name, rows in tables.items()
    }
    parts[BLOB_LIST] = moment.write_blob_list(target.parts / BLOB_LIST)
    heads, chain_head = moment.heads()
    return _Rows(moment.schema, tables, parts, heads, chain_head)


def _copy_blobs(
    blobs: BlobStore, target: BackupTarget, rows: _Rows, skip_damaged: bool, progress: Progress
) -> tuple[int, int, int, tuple[str, ...]]:
    """How many were copied, bytes and number of all that the backup holds, and what could not be read."""
    total = (rows.parts[BLOB_LIST].raw_bytes or 0) // 65
    copied = size = count = 0
    missing: list[str] = []
    for done, digest in enumerate(_lines(target.parts / BLOB_LIST), start=1):
        known = target.held_bytes(digest)
        if known is None:
            try:
                content = blobs.get(digest)
            except (BadInput, NotFound) as error:  # a place that does not answer damages nothing: it stops the backup
                if not skip_damaged:
                    remedy = f"{error.remedy}; `--skip-damaged` backs up the rest"
                    raise Unavailable(error.item, error.problem, remedy) from error
                missing.append(digest)
                continue
            target.add_blob(content)
            known = len(content)
            copied += 1
        size += known
        count += 1
        progress(done, total)
    return copied, size, count, tuple(missing)


def _lines(packed: Path) -> Iterator[str]:
    with gzip.open(packed, "rt", encoding="ascii") as lines:
        for line in lines:
            yield line.rstrip("\n")


def _copy_label_studio(parts: Path, folder: Path) -> dict[str, Part]:
    """Its SQLite by the backup interface, which gives one moment while it is written to, and then its uploads."""
    source = folder / LABEL_STUDIO_DATABASE
    if not source.is_file():
        raise Unavailable("Label Studio", f"has no database at {source}", "use --no-label-studio")
    name = f"{LABEL_STUDIO}/{LABEL_STUDIO_DATABASE}"
    target = parts / name
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with (
            closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as running,
            closing(sqlite3.connect(target)) as copy,
        ):
            running.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        raise Unavailable("Label Studio's database", f"cannot be copied ({error})", "try again") from error
    return {name: _part(target)} | _copy_files(parts, _label_studio_files(folder))


def _label_studio_files(folder: Path) -> Iterator[tuple[str, Path]]:
    for place, _, names in os.walk(folder, followlinks=False):
        for name in sorted(names):
            path = Path(place) / name
            inside = path.relative_to(folder).as_posix()
            if not inside.startswith(LABEL_STUDIO_DATABASE) and path.is_file() and not path.is_symlink():
                yield f"{LABEL_STUDIO}/{inside}", path


def _copy_files(parts: Path, files: Iterator[tuple[str, Path]]) -> dict[str, Part]:
    """Those that are there; one may be removed while it is copied."""
    found = {}
    for name, source in files:
        target = parts / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            shutil.copyfile(source, target)
        except FileNotFoundError:
            target.unlink(missing_ok=True)
            continue
        target.chmod(0o600)
        found[name] = _part(target)
    return found


def _part(path: Path) -> Part:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Part(digest, path.stat().st_size)
