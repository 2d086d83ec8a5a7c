"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from mpamatch.errors import Unavailable


def write_whole(path: Path, content: bytes) -> None:
    """Write beside and rename: a reader sees the old file or the new one. Raises Unavailable."""
    write_pieces(path, [content])


def write_pieces(path: Path, pieces: Iterable[bytes]) -> None:
    """The same for what comes piece by piece; nothing is left of it when making the pieces fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name[:40]}.", delete=False) as part:
            try:
                for piece in pieces:
                    part.write(piece)
            except BaseException:
                os.unlink(part.name)
                raise
        # Temporary files are for their owner alone; these are to be given away.
        os.chmod(part.name, 0o644)
        os.replace(part.name, path)
    except OSError as error:
        raise Unavailable(
            str(path), f"cannot be written ({error.strerror})", "check the folder and its space"
        ) from error
