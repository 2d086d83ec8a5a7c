"""Short private folders for unix sockets.

A socket's path may have 107 bytes, which a state folder deep in someone's home easily exceeds; so sockets lie in a
folder of their own under the system's temporary folder, which the state remembers.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from backend.processes import Account
from mpamatch.errors import Unavailable

LONGEST_PATH_BYTES = 107
_PRIVATE = 0o700
_SOCKETS = (".s.PGSQL.*", "*.sock")


def socket_folder(state: Path, name: str, account: Account | None = None) -> Path:
    """The folder for the sockets of server `name` on this state: the remembered one while it is sound, else a new one.

    The folder belongs to `account` (default: us) and nobody else may enter it.
    """
    note = state / "run" / f"{name}.socket-folder"
    owner = account.uid if account else os.geteuid()
    remembered = _remembered(note)
    if remembered is not None and _is_private(remembered, owner):
        return remembered
    folder = Path(tempfile.mkdtemp(prefix=f"mpamatch-{name}-", dir=_short_temporary_folder()))
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{folder}\n", encoding="utf-8")
    return folder


def drop_socket_folder(state: Path, name: str) -> None:
    """Remove the folder of a server that has stopped."""
    note = state / "run" / f"{name}.socket-folder"
    folder = _remembered(note)
    if folder is None:
        return
    # A killed server leaves its socket behind.
    for left in (one for pattern in _SOCKETS for one in folder.glob(pattern)):
        left.unlink(missing_ok=True)
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        return
    note.unlink(missing_ok=True)


def _remembered(note: Path) -> Path | None:
    try:
        return Path(note.read_text(encoding="utf-8").strip())
    except OSError:
        return None


def _is_private(folder: Path, owner: int) -> bool:
    """A folder, no link, of that owner alone: anything else under a shared temporary folder may be a trap."""
    try:
        seen = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid == owner and stat.S_IMODE(seen.st_mode) == _PRIVATE


def _short_temporary_folder() -> str:
    room = LONGEST_PATH_BYTES - len("/mpamatch-postgres-12345678/.s.PGSQL.5432")
    for folder in (tempfile.gettempdir(), "/tmp"):
        if len(os.fsencode(folder)) <= room and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise Unavailable("unix sockets", "no temporary folder with a short path", "set TMPDIR to a short path")
