"""A model folder as one archive, and back, without torch: who only stores and carries models needs no more.

An archive may come from elsewhere: only the two known names are unpacked, each once and within its size. What they
hold is checked when the model is loaded (``network/weights``).
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO

from mpamatch.errors import BadInput, NotFound

TENSORS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
LIMITS_BYTES = {TENSORS_NAME: 1 << 30, CONFIG_NAME: 1 << 20}


def find_model(folder: Path) -> Path:
    """The folder itself, or the ``model`` in it that a run left. Raises NotFound."""
    for candidate in (folder, folder / "model"):
        if (candidate / CONFIG_NAME).is_file() and (candidate / TENSORS_NAME).is_file():
            return candidate
    raise NotFound(f"model {folder}", "no such model folder", "give the folder that `mpamatch train --out` wrote")


def weights_sha256(folder: Path) -> str:
    """The checksum of a model folder's weights: by it two places hold the same model. Raises NotFound."""
    with open(find_model(folder) / TENSORS_NAME, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack_model(folder: Path) -> bytes:
    """A model folder as one uncompressed tar; equal folders give equal bytes. Raises NotFound."""
    folder = find_model(folder)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in (CONFIG_NAME, TENSORS_NAME):
            content = (folder / name).read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def unpack_model(packed: Path | bytes, folder: Path) -> None:
    """Write the two known members of an archive into ``folder``. Raises BadInput for anything else in it."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        with open(packed, "rb") if isinstance(packed, Path) else io.BytesIO(packed) as file:
            _unpack_members(file, str(packed) if isinstance(packed, Path) else "model", fresh)
        _check_config(fresh)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _unpack_members(file: BinaryIO, name: str, folder: Path) -> None:
    found: set[str] = set()
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                limit = LIMITS_BYTES.get(member.name)
                if limit is None or not member.isreg() or member.name in found:
                    raise BadInput(name, f"unexpected member {member.name!r}", "give a packed model")
                if member.size > limit:
                    raise BadInput(name, f"{member.name} has {member.size} bytes", f"at most {limit}")
                source = archive.extractfile(member)
                assert source is not None  # a regular file always has content
                with source, (folder / member.name).open("wb") as target:
                    shutil.copyfileobj(source, target)
                found.add(member.name)
    except (tarfile.TarError, EOFError) as error:
        raise BadInput(name, "not a packed model", "give a file that `pack_model` wrote") from error
    if found != set(LIMITS_BYTES):
        missing = ", ".join(sorted(set(LIMITS_BYTES) - found))
        raise BadInput(name, f"lacks {missing}", "give a packed model")


def _check_config(folder: Path) -> None:
    try:
        values = json.loads((folder / CONFIG_NAME).read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadInput(CONFIG_NAME, "is not JSON", "give a packed model") from error
    if not isinstance(values, dict):
        raise BadInput(CONFIG_NAME, "is not a JSON object", "give a packed model")
