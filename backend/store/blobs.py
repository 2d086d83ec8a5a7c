"""Immutable files by their SHA-256: written to a temporary name, flushed to disk, then renamed.

A blob is complete or absent, never half there; the row that names it is written afterwards. Reading checks
the hash, so a torn or flipped file is an error and not a wrong mask.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from mpamatch.errors import NotFound, Unavailable


class BlobFolder:
    """A content-addressed folder: ``ab/abcdef...``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Where a blob lies; it may not exist. Raises NotFound for what is no digest."""
        if len(digest) != 64 or any(c not in "0123456789abcdef" for c in digest):
            raise NotFound(f"blob {digest[:80]!r}", "is not a SHA-256")
        return self.folder / digest[:2] / digest

    def put(self, content: bytes) -> str:
        """Store bytes and return their digest; the same bytes are stored once. Raises Unavailable."""
        digest = hashlib.sha256(content).hexdigest()
        target = self.path(digest)
        if target.exists():
            return digest
        try:
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

    def get(self, digest: str) -> bytes:
        """The bytes of a blob, checked against their name. Raises NotFound or Unavailable."""
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"blob {digest[:12]}", "is missing", "restore the blob folder from a backup") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise Unavailable(
                f"blob {digest[:12]}", "is damaged: its content does not match its name", "restore it from a backup"
            )
        return content
