"""Outbound credentials at rest: encrypted with a key file that only the owner can read.

Also signs the per-tile picture links. Passwords that come *in* are compared in constant time by their callers.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from mpamatch.errors import Unavailable


class KeyRing:
    """The installation's key: seals credentials and signs tile links."""

    def __init__(self, key: bytes) -> None:
        self._fernet = Fernet(key)
        self._signing = hashlib.sha256(b"tile-links:" + key).digest()
        self.key_id = hashlib.sha256(b"key-id:" + key).hexdigest()[:8]

    @classmethod
    def at(cls, path: Path) -> KeyRing:
        """Read the key file, making it (mode 0600) when absent; of two first starts, one wins."""
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            fresh = path.with_name(f".{path.name}-{os.getpid()}")
            handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(Fernet.generate_key())
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(fresh, path)
            except FileExistsError:
                pass
            finally:
                fresh.unlink()
        return cls(path.read_bytes().strip())

    def seal(self, secret: str) -> bytes:
        return self._fernet.encrypt(secret.encode())

    def open(self, sealed: bytes) -> str:
        """Raises Unavailable when the key file is not the one that sealed it."""
        try:
            return self._fernet.decrypt(sealed).decode()
        except InvalidToken as error:
            raise Unavailable(
                "credentials", "cannot be read with this key file", "restore the key file, or connect again"
            ) from error

    def sign(self, message: str) -> str:
        return hmac.new(self._signing, message.encode(), hashlib.sha256).hexdigest()[:32]

    def signed_by_us(self, message: str, signature: str) -> bool:
        return hmac.compare_digest(self.sign(message).encode(), signature.encode())
