"""Where a backup is written: a folder that keeps several beside one store of blobs, or one tar file.

Either appears under its name when it is complete and on the disk, never before: it is made under another name and
renamed. What a killed backup left behind is removed by the next.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from backend.store.backup_manifest import MANIFEST, Manifest
from backend.store.blobs import BlobFolder
from mpamatch.errors import BadInput, Conflict

BLOBS: Final = "blobs"
TAR_ENDING: Final = ".tar"
_MAKING: Final = ".making-"


class FolderTarget:
    """``DEST/TIME``, beside ``DEST/blobs``, which all backups of that folder share: a blob is copied once."""

    def __init__(self, destination: Path, now: datetime) -> None:
        self.parts = destination / f"{_MAKING}{os.getpid()}"
        self.parts.mkdir(mode=0o700)
        self.path = destination / now.strftime("%Y%m%dT%H%M%SZ")
        if self.path.exists():
            self.parts.rmdir()
            raise Conflict(str(self.path), "exists already", "begin a second later")
        self._blobs = BlobFolder(destination / BLOBS)

    def held_bytes(self, digest: str) -> int | None:
        """The size of a blob that is there already."""
        path = self._blobs.path(digest)
        return path.stat().st_size if path.exists() else None

    def add_blob(self, content: bytes) -> None:
        self._blobs.put(content)

    def finish(self, manifest: Manifest) -> None:
        (self.parts / MANIFEST).write_bytes(manifest.to_json())
        flush_tree(self.parts)
        self.parts.rename(self.path)
        flush(self.path.parent)

    def abandon(self) -> None:
        shutil.rmtree(self.parts, ignore_errors=True)


class TarTarget:
    """One file, readable by its owner alone. The parts wait in a folder beside it, the blobs go straight in."""

    def __init__(self, destination: Path, now: datetime) -> None:
        self.path = destination
        if destination.exists():
            raise Conflict(str(destination), "exists already", "choose another name, or a folder for many backups")
        self.parts = Path(tempfile.mkdtemp(prefix=f"{_MAKING}{destination.name}-", dir=destination.parent))
        self._now_s = int(now.timestamp())
        self._file = self.parts / "whole.tar"
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._stream = os.fdopen(descriptor, "wb")
        self._tar = tarfile.open(fileobj=self._stream, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def held_bytes(self, digest: str) -> int | None:
        """A tar begins empty, and each blob is named once."""
        return None

    def add_blob(self, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        self._add(f"{BLOBS}/{digest}", io.BytesIO(content), len(content))

    def finish(self, manifest: Manifest) -> None:
        for name in sorted(manifest.parts):
            with (self.parts / name).open("rb") as part:
                self._add(name, part, manifest.parts[name].bytes)
        content = manifest.to_json()
        self._add(MANIFEST, io.BytesIO(content), len(content))
        self._tar.close()
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()
        os.link(self._file, self.path)  # unlike a rename it never takes the place of another file
        flush(self.path.parent)
        shutil.rmtree(self.parts, ignore_errors=True)

    def abandon(self) -> None:
        self._stream.close()
        shutil.rmtree(self.parts, ignore_errors=True)

    def _add(self, name: str, content: io.BufferedIOBase, size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = size, 0o600, self._now_s
        self._tar.addfile(member, content)


BackupTarget = FolderTarget | TarTarget


@contextmanager
def open_target(destination: Path, now: datetime) -> Iterator[BackupTarget]:
    """A tar for a name that ends so, else a folder, made when missing. What is not finished is removed at the end.

    Raises Conflict when another backup goes to the same folder, or the tar is there; BadInput for a file.
    """
    as_tar = destination.suffix == TAR_ENDING
    if not as_tar and destination.exists() and not destination.is_dir():
        raise BadInput(str(destination), "is a file", f"name a folder, or a file that ends in {TAR_ENDING}")
    folder = destination.parent if as_tar else destination
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with _alone(folder):
        for left in folder.glob(f"{_MAKING}{f'{destination.name}-' if as_tar else ''}*"):
            shutil.rmtree(left, ignore_errors=True)
        target: BackupTarget = TarTarget(destination, now) if as_tar else FolderTarget(destination, now)
        try:
            yield target
        except BaseException:
            target.abandon()
            raise


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(str(folder), "another backup is being written there", "wait for it to end") from None
        yield
    finally:
        os.close(handle)


def flush(path: Path) -> None:
    """Bring a file or the names in a folder to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_tree(folder: Path) -> None:
    """The same for everything in a folder."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            flush(Path(place) / name)
        flush(Path(place))
