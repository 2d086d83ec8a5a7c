"""Outbound credentials at rest: encrypted with a key file that only the owner can read.

Also signs the per-tile picture links. Passwords that come *in* are compared in constant time by their callers.

The file holds one key a line, the present one first. `mpamatch keys rotate` puts a new one before it; the one before
that still opens what it sealed and vouches for the links it signed, until it is dropped.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import tempfile
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from mpamatch.errors import BadInput, Unavailable

KEPT: Final = 2  # the present key, and the one before it


@dataclass(frozen=True)
class _Key:
    """One line of the file, and what is derived from it."""

    fernet: Fernet
    signing: bytes = field(repr=False)
    key_id: str

    @classmethod
    def of(cls, line: bytes) -> _Key:
        signing = hashlib.sha256(b"tile-links:" + line).digest()
        return cls(Fernet(line), signing, hashlib.sha256(b"key-id:" + line).hexdigest()[:8])

    def sign(self, message: str) -> str:
        return hmac.new(self.signing, message.encode(), hashlib.sha256).hexdigest()[:32]


class KeyRing:
    """The installation's keys: seal credentials and sign tile links. Follows its file when that changes."""

    def __init__(self, *lines: bytes, path: Path | None = None) -> None:
        self._keys = tuple(_Key.of(line) for line in lines)
        self._path = path
        self._stamp = _stamp(path)
        self._lock = threading.Lock()

    @classmethod
    def at(cls, path: Path) -> KeyRing:
        """Read the key file, making it (mode 0600) when absent; of two first starts, one wins. Raises BadInput."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            fresh = _written(path, [Fernet.generate_key()])
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return cls(*_lines(path), path=path)

    def rotate(self) -> None:
        """Put a new key first; the one that was first stays for what it sealed and signed, others go."""
        path = self._file()
        self._replace([Fernet.generate_key(), *_lines(path)[: KEPT - 1]])

    def drop_old(self) -> None:
        """Keep the present key alone: nothing that an older one sealed or signed counts any more."""
        self._replace(_lines(self._file())[:1])

    def _file(self) -> Path:
        if self._path is None:
            raise BadInput("keys", "are in no file", "rotate the keys of a state folder")
        return self._path

    def _replace(self, lines: list[bytes]) -> None:
        path = self._file()
        os.replace(_written(path, lines), path)
        self._follow()

    @property
    def key_id(self) -> str:
        """The public name of the present key."""
        return self._present()[0].key_id

    def seal(self, secret: str) -> bytes:
        return self._present()[0].fernet.encrypt(secret.encode())

    def open(self, sealed: bytes) -> str:
        """Raises Unavailable when no key of the file is the one that sealed it."""
        try:
            return MultiFernet([key.fernet for key in self._present()]).decrypt(sealed).decode()
        except InvalidToken as error:
            raise Unavailable(
                "credentials", "cannot be read with this key file", "restore the key file, or connect again"
            ) from error

    def sign(self, message: str) -> str:
        return self._present()[0].sign(message)

    def signed_by_us(self, message: str, signature: str, *, key_id: str | None = None) -> bool:
        """Whether a key of ours signed it: the present one, or the one that is named."""
        keys = self._present()
        chosen = keys[:1] if key_id is None else tuple(key for key in keys if key.key_id == key_id)
        return any(hmac.compare_digest(key.sign(message).encode(), signature.encode()) for key in chosen)

    def _present(self) -> tuple[_Key, ...]:
        """The keys as the file has them now: another process may have rotated them."""
        if self._path is not None and _stamp(self._path) != self._stamp:
            self._follow()
        return self._keys

    def _follow(self) -> None:
        assert self._path is not None
        with self._lock:
            stamp = _stamp(self._path)
            if stamp is not None and stamp != self._stamp:
                self._keys = tuple(_Key.of(line) for line in _lines(self._path))
                self._stamp = stamp


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """What changes when the file is replaced; None while there is none (it keeps what it read)."""
    try:
        found = None if path is None else path.stat()
    except OSError:
        return None
    return None if found is None else (found.st_ino, found.st_mtime_ns)


def _lines(path: Path) -> list[bytes]:
    lines = path.read_bytes().split()
    try:
        for line in lines:
            Fernet(line)
    except ValueError:
        lines = []
    if not lines:
        raise BadInput(str(path), "holds no key", "restore the key file from a backup")
    return lines


def _written(path: Path, lines: list[bytes]) -> Path:
    """A file beside ``path`` that its owner alone may read, complete and on the disk."""
    # No pid in its name: two containers that share the folder may have the same one.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "wb") as file:
        file.write(b"\n".join(lines))
        file.flush()
        os.fsync(file.fileno())
    return Path(name)
