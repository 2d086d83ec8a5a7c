"""A backup as it is read: every name, size and hash is checked before anything of it is used.

Nothing is unpacked by name: parts are opened one at a time and written where *we* say.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from backend.store.backup_manifest import (
    BLOB_LIST,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    check_part_name,
    read_manifest,
)
from backend.store.backup_target import BLOBS
from backend.store.blobs import BlobFolder
from mpamatch.errors import BadInput, NotFound

_CHUNK: Final = 1 << 20
_REMEDY: Final = "take another backup"
MAX_BLOB_BYTES: Final = 4 << 30

Progress = Callable[[int, int], None]


class FolderSource:
    """``DEST/TIME`` with ``DEST/blobs``."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        self._folder = folder
        self._blobs = BlobFolder(folder.parent / BLOBS)
        self.manifest = _manifest_of(self, self._opened(MANIFEST))

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        with self._opened(check_part_name(name, self.name)) as file:
            yield file

    def blob(self, digest: str) -> bytes:
        return self._blobs.get(digest)

    def close(self) -> None:
        """Nothing is held open."""

    def _opened(self, name: str) -> IO[bytes]:
        path = self._folder / name
        try:
            for step in [path, *path.parents[: len(Path(name).parts) - 1]]:
                if step.is_symlink():
                    raise BadInput(str(step), "is a link", "take a backup that was not changed")
            return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb")
        except OSError as error:
            raise NotFound(f"{self.name}: {name}", f"cannot be read ({error.strerror})", _REMEDY) from error


class TarSource:
    """One tar file. Its members are looked at one by one: plain files with names of ours, each once."""

    def __init__(self, file: Path) -> None:
        self.name = str(file)
        self._tar = tarfile.open(file, "r:")  # noqa: SIM115 - `close` closes it
        try:
            self._members = self._checked()
            if MANIFEST not in self._members:
                raise BadInput(self.name, "holds no manifest", _REMEDY)
            self.manifest = _manifest_of(self, self._opened(MANIFEST))
        except BaseException:
            self._tar.close()
            raise

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        with self._opened(check_part_name(name, self.name)) as file:
            yield file

    def blob(self, digest: str) -> bytes:
        name = f"{BLOBS}/{digest}"
        with self._opened(name) as file:
            content = file.read(MAX_BLOB_BYTES + 1)
        if hashlib.sha256(content).hexdigest() != digest:
            raise BadInput(f"{self.name}: {name}", "is damaged", _REMEDY)
        return content

    def close(self) -> None:
        self._tar.close()

    def _checked(self) -> dict[str, tarfile.TarInfo]:
        members: dict[str, tarfile.TarInfo] = {}
        try:
            for member in self._tar:
                name = member.name
                if not (name == MANIFEST or self._is_blob(name)):
                    check_part_name(name, self.name)
                if not member.isreg() or name in members:
                    raise BadInput(f"{self.name}: {name[:80]}", "is no plain file, or twice there", _REMEDY)
                if self._is_blob(name) and member.size > MAX_BLOB_BYTES:
                    raise BadInput(f"{self.name}: {name}", f"has {member.size} bytes", _REMEDY)
                members[name] = member
        except tarfile.TarError as error:
            raise BadInput(self.name, f"cannot be read as a tar ({error})", _REMEDY) from error
        return members

    @staticmethod
    def _is_blob(name: str) -> bool:
        folder, _, digest = name.partition("/")
        return folder == BLOBS and len(digest) == 64 and not set(digest) - set("0123456789abcdef")

    def _opened(self, name: str) -> IO[bytes]:
        member = self._members.get(name)
        file = None if member is None else self._tar.extractfile(member)
        if file is None:
            raise NotFound(f"{self.name}: {name}", "is missing", _REMEDY)
        return file


BackupSource = FolderSource | TarSource


def open_source(path: Path) -> BackupSource:
    """A tar, one backup of a folder, or the newest of a folder. Raises NotFound, BadInput or Conflict."""
    if path.is_file():
        return TarSource(path) if tarfile.is_tarfile(path) else _refuse(path, "is no tar file")
    if not path.is_dir():
        raise NotFound(str(path), "does not exist", "name a folder or tar that `mpamatch backup` wrote")
    if (path / MANIFEST).is_file():
        return FolderSource(path)
    complete = sorted(p.parent for p in path.glob(f"[0-9]*/{MANIFEST}"))
    return FolderSource(complete[-1]) if complete else _refuse(path, "holds no complete backup")


def verify(source: BackupSource, progress: Progress = lambda done, total: None) -> None:
    """Read everything once and compare it with the manifest. Raises BadInput or NotFound at the first fault."""
    manifest = source.manifest
    total = len(manifest.parts) + manifest.blobs
    done = 0
    for name, part in manifest.parts.items():
        digest, size = hashlib.sha256(), 0
        with source.open(name) as file:
            while piece := file.read(_CHUNK):
                digest.update(piece)
                size += len(piece)
                if size > part.bytes:
                    break
        if (digest.hexdigest(), size) != (part.sha256, part.bytes):
            raise BadInput(f"{source.name}: {name}", "is not what the manifest says", _REMEDY)
        done += 1
        progress(done, total)
    count = size = 0
    for digest_of_blob in blobs_of(source):
        size += len(source.blob(digest_of_blob))
        count += 1
        progress(done + count, total)
    if (count, size) != (manifest.blobs, manifest.blob_bytes):
        raise BadInput(source.name, f"lists {count} blobs of {size} bytes, its manifest others", _REMEDY)


def blobs_of(source: BackupSource) -> Iterator[str]:
    """Every blob that the backup holds, in order. Raises BadInput for a line that is no digest."""
    missing = set(source.manifest.missing)
    for digest in named_blobs(source):
        if digest not in missing:
            yield digest


def named_blobs(source: BackupSource) -> Iterator[str]:
    """Every blob that a row names, those that were missing included."""
    for line in raw_lines(source, BLOB_LIST):
        digest = line.decode("ascii", "replace").rstrip("\n")
        if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
            raise BadInput(f"{source.name}: {BLOB_LIST}", f"holds {digest[:80]!r}", _REMEDY)
        yield digest


def raw_pieces(source: BackupSource, name: str) -> Iterator[bytes]:
    """A packed part unpacked, never more than the manifest says that it holds. Raises BadInput."""
    limit = source.manifest.parts[name].raw_bytes or 0
    size = 0
    with source.open(name) as file, gzip.GzipFile(fileobj=file) as unpacked:
        try:
            while piece := unpacked.read(_CHUNK):
                size += len(piece)
                if size > limit:
                    break
                yield piece
        except (OSError, EOFError, zlib.error) as error:
            raise BadInput(f"{source.name}: {name}", "cannot be unpacked", _REMEDY) from error
    if size != limit:
        raise BadInput(f"{source.name}: {name}", f"holds {size} bytes, not {limit}", _REMEDY)


def raw_lines(source: BackupSource, name: str) -> Iterator[bytes]:
    """The same by lines."""
    rest = b""
    for piece in raw_pieces(source, name):
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _manifest_of(source: FolderSource | TarSource, file: IO[bytes]) -> Manifest:
    with file:
        content = file.read(MAX_MANIFEST_BYTES + 1)
    if len(content) > MAX_MANIFEST_BYTES:
        raise BadInput(source.name, "has a manifest of more than 64 MiB", _REMEDY)
    return read_manifest(content, source.name)


def _refuse(path: Path, problem: str) -> BackupSource:
    raise BadInput(str(path), problem, "name a folder or tar that `mpamatch backup` wrote")
