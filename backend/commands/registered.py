"""Registered versions by name, for the library's commands: `mpamatch evaluate --model demo-m3`."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select

from backend.settings import load_settings
from backend.store.open_blobs import open_blobs
from backend.store.sessions import Database
from backend.store.tables import Model
from mpamatch.errors import Conflict, NotFound
from mpamatch.files.model_archive import unpack_model


def find_version(name: str) -> Path | None:
    """The folder of a version, unpacked into the state's cache; None when nothing runs here or none has that name.

    Raises Conflict when two projects have it (their keys differ, so that needs a hand-made row), NotFound for a
    blank model, which has no weights.
    """
    settings = load_settings()
    if settings.database_url is None:
        return None
    database = Database(settings.require_database_url())
    try:
        with database.transaction() as session:
            rows = session.execute(select(Model.blob, Model.kind).where(Model.version == name)).all()
    finally:
        database.close()
    if not rows:
        return None
    if len(rows) > 1:
        raise Conflict(f"model {name}", "exists in several projects", "export it and give its folder")
    blob, kind = rows[0]
    if blob is None:
        raise NotFound(f"model {name}", f"is {kind} and has no weights", "give a trained version")
    folder = settings.state / "cache" / "versions" / blob
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Another command may unpack the same version: each into a folder of its own, and the first rename counts.
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpack_model(open_blobs(settings).get(blob), Path(scratch) / "model")
        with suppress(OSError):
            (Path(scratch) / "model").rename(folder)
    return folder
