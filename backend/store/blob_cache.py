"""Files of blobs that were fetched from elsewhere: bounded in size, shared by processes, never trusted unread.

The folder may be deleted at any time. A file enters by rename, is checked against its name whenever it is used, and
the one that was used longest ago leaves first.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from backend.store.blobs import require_digest
from mpamatch.errors import Unavailable

# When the bound is passed, room is made for a while, so that the folder is not listed at every file.
_EMPTY_TO = 0.8


class BlobCache:
    """At most ``most_bytes`` of blobs in one folder; one file may be larger than that and is then not kept."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder = folder
        self._most_bytes = most_bytes
        self._added_bytes: int | None = None

    def place(self, digest: str, target: Path, fetch: Callable[[], bytes]) -> None:
        """Make ``target`` the blob's file: from here, else by ``fetch``, whose answer is whole. Raises Unavailable.

        The target is a second name of the file where the disk allows it, so that it outlives its place here.
        """
        kept = self._folder / require_digest(digest)
        try:
            if not _holds(kept, digest):
                content = fetch()
                if len(content) > self._most_bytes:
                    _write(target, content)
                    return
                _write(kept, content)
                self._make_room(len(content))
            else:
                os.utime(kept)
            _name_again(kept, target)
        except OSError as error:
            raise Unavailable(
                f"blob {digest[:12]}", f"could not be kept as a file ({error.strerror})", "free disk space"
            ) from error

    def drop(self, digest: str) -> None:
        (self._folder / require_digest(digest)).unlink(missing_ok=True)

    def _make_room(self, added_bytes: int) -> None:
        if self._added_bytes is not None and self._added_bytes + added_bytes <= self._most_bytes:
            self._added_bytes += added_bytes
            return
        found = []
        for path in self._folder.iterdir():
            try:
                found.append((path.stat().st_mtime, path.stat().st_size, path))
            except FileNotFoundError:
                continue
        held_bytes = sum(size for _, size, _ in found)
        if held_bytes > self._most_bytes:
            for _, size, path in sorted(found)[:-1]:  # the newest was just asked for
                if held_bytes <= _EMPTY_TO * self._most_bytes:
                    break
                path.unlink(missing_ok=True)
                held_bytes -= size
        self._added_bytes = held_bytes


def _holds(path: Path, digest: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except FileNotFoundError:
        return False


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".part-")
    try:
        with os.fdopen(handle, "wb") as part:
            part.write(content)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _name_again(kept: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Nobody else has this name, not even a process of another container with the same pid.
    fresh = target.with_name(f".part-{target.name}-{secrets.token_hex(8)}")
    try:
        os.link(kept, fresh)
    except OSError:  # another file system, or one without second names
        shutil.copyfile(kept, fresh)
    os.replace(fresh, target)
    fresh.unlink(missing_ok=True)  # replacing a file by another name of itself leaves both
