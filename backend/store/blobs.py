"""Immutable files by their SHA-256: written to a temporary name, flushed to disk, then renamed.

A blob is complete or absent, never half there; the row that names it is written afterwards. Reading checks
the hash, so a torn or flipped file is an error and not a wrong mask.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from mpamatch.errors import BadInput, NotFound, Unavailable


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
        if target.exists() and hashlib.sha256(target.read_bytes()).hexdigest() == digest:
            return digest  # a damaged one is written anew
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

    def _holds_anything(self) -> bool:
        return self.folder.is_dir() and any(self.folder.iterdir())

    def get(self, digest: str) -> bytes:
        """The bytes of a blob. Raises NotFound, BadInput when damaged, Unavailable when no blob is there at all."""
        try:
            content = self.path(digest).read_bytes()
        except FileNotFoundError as error:
            if not self._holds_anything():
                # A disk that is not mounted must not read as a thousand lost pictures.
                raise Unavailable(
                    f"blob folder {self.folder}", "is missing or empty", "mount it, or restore it from a backup"
                ) from error
            raise NotFound(f"blob {digest[:12]}", "is missing", "restore the blob folder from a backup") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise BadInput(
                f"blob {digest[:12]}", "is damaged: its content does not match its name", "restore it from a backup"
            )
        return content
