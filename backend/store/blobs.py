"""Immutable files by their SHA-256: what every store of them promises, and the one in a folder.

A blob is complete or absent, never half there; the row that names it is written afterwards. Reading checks
the hash, so a torn or flipped file is an error and not a wrong mask.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from mpamatch.errors import BadInput, NotFound, Unavailable

_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BlobEntry:
    """A blob that is there: its SHA-256, its size, and when it was written."""

    digest: str
    size_bytes: int
    written_at: datetime


class BlobStore(Protocol):
    """Where blobs are kept. Every method raises Unavailable when the place cannot be reached."""

    def put(self, content: bytes) -> str:
        """Store bytes and return their digest; the same bytes are stored once, and damaged ones written anew."""

    def get(self, digest: str) -> bytes:
        """The bytes of a blob. Raises NotFound, BadInput when damaged, Unavailable when no blob is there at all."""

    def exists(self, digest: str) -> bool:
        """Whether a blob is there, whole or not. Raises NotFound for what is no digest."""

    def delete(self, digest: str) -> None:
        """Remove a blob; one that is gone already is no error."""

    def entries(self) -> Iterator[BlobEntry]:
        """Every blob that is there, in no order; for garbage and backups."""

    def check(self, *, filled: bool) -> None:
        """Raises Unavailable when blobs cannot be kept here, or when none is there although some should (``filled``).

        Nothing is written.
        """

    def local(self, digest: str, folder: Path) -> Path:
        """A file of this machine with the blob's bytes, which stays as long as ``folder``. Raises like ``get``.

        A folder of blobs answers with its own file, unread; only a fetched one is put into ``folder`` and checked.
        """


def require_digest(digest: str) -> str:
    """The digest itself. Raises NotFound for what is none, so that no name reaches a path."""
    if not _DIGEST.fullmatch(digest):
        raise NotFound(f"blob {digest[:80]!r}", "is not a SHA-256")
    return digest


def damaged(digest: str) -> BadInput:
    return BadInput(
        f"blob {digest[:12]}", "is damaged: its content does not match its name", "restore it from a backup"
    )


class BlobFolder:
    """A content-addressed folder: ``ab/abcdef...``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Where a blob lies; it may not exist. Raises NotFound for what is no digest."""
        return self.folder.joinpath(require_digest(digest)[:2], digest)

    def put(self, content: bytes) -> str:
        """Store bytes and return their digest; the same bytes are stored once. Raises Unavailable."""
        digest = hashlib.sha256(content).hexdigest()
        target = self.path(digest)
        try:
            if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == digest:
                return digest  # a damaged one is written anew
            self._write(target, content)
        except OSError as error:
            raise Unavailable(
                f"blob {digest[:12]}", f"could not be written ({error.strerror})", "free disk space"
            ) from error
        return digest

    def _write(self, target: Path, content: bytes) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".part-")
        try:
            with os.fdopen(handle, "wb") as part:
                part.write(content)
                part.flush()
                os.fsync(part.fileno())
            os.replace(name, target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        self._flush_folder(target.parent)

    @staticmethod
    def _flush_folder(folder: Path) -> None:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def _holds_anything(self) -> bool:
        return self.folder.is_dir() and any(self.folder.iterdir())

    def check(self, *, filled: bool) -> None:
        """Raises Unavailable when blobs cannot be kept here, or when none is there although some should (``filled``).

        Nothing is written: the permissions are asked for.
        """
        item = f"blob folder {self.folder}"
        if self.folder.exists() and not self.folder.is_dir():
            raise Unavailable(item, "is no folder", "move the file away, and restore the folder from a backup")
        if filled and not self._holds_anything():
            raise Unavailable(item, "is missing or empty", "mount it, or restore it from a backup")
        there = next(place for place in (self.folder, *self.folder.parents) if place.exists())
        if not os.access(there, os.R_OK | os.W_OK | os.X_OK):
            raise Unavailable(item, "cannot be written", "mount it writable, or give this user the permission")

    def get(self, digest: str) -> bytes:
        """The bytes of a blob. Raises NotFound, BadInput when damaged, Unavailable when no blob is there at all."""
        try:
            # By its name: a ranking reads thousands, and a Path for each would take as long as reading it.
            with open(f"{self.folder}/{require_digest(digest)[:2]}/{digest}", "rb", buffering=0) as file:
                content = file.read()
        except FileNotFoundError as error:
            if not self._holds_anything():
                # A disk that is not mounted must not read as a thousand lost pictures.
                raise Unavailable(
                    f"blob folder {self.folder}", "is missing or empty", "mount it, or restore it from a backup"
                ) from error
            raise NotFound(f"blob {digest[:12]}", "is missing", "restore the blob folder from a backup") from error
        except OSError as error:  # it may be there: no rights, a disk that does not answer
            raise Unavailable(
                f"blob {digest[:12]}", f"could not be read ({error.strerror})", "check the disk and the permissions"
            ) from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise damaged(digest)
        return content

    def exists(self, digest: str) -> bool:
        return self.path(digest).is_file()

    def delete(self, digest: str) -> None:
        try:
            self.path(digest).unlink(missing_ok=True)
        except OSError as error:
            raise Unavailable(
                f"blob {digest[:12]}", f"could not be removed ({error.strerror})", "check the folder's permissions"
            ) from error

    def entries(self) -> Iterator[BlobEntry]:
        for path in self.folder.glob("??/*"):
            if not _DIGEST.fullmatch(path.name):
                continue  # what a killed writer left half done
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            yield BlobEntry(path.name, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def local(self, digest: str, folder: Path) -> Path:
        return self.path(digest)
