"""Where a run resumes: one folder per checkpoint, written whole or not at all; the one module here that stores state.

A checkpoint is ``step-000120/`` with ``tensors.safetensors`` and ``state.json``. It is written under another name,
synced and renamed, so that a kill at any moment leaves the earlier one. ``state.json`` carries the hashes of both
parts, and the checkpoint before the latest is kept: one that was torn or flipped on the disk is never resumed from.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mpamatch.errors import NotWritten
from mpamatch.network.weights import dump_json, sync_to_disk
from mpamatch.training.loop import LoopState

_TENSORS, _VALUES = "tensors.safetensors", "state.json"
_TWINS = "twins"
_NAME = re.compile(r"step-(\d{6,})")
_KEPT = 2


def save_checkpoint(folder: Path, state: LoopState) -> Path:
    """Write a checkpoint into ``folder``, keep the one before it and drop the rest; the path written.

    Raises NotWritten when the disk does not take it; the earlier ones are still there then.
    """
    target = folder / f"step-{state.values['step']:06d}"
    fresh = folder / f"{target.name}.new"
    try:
        _write(fresh, state)
        shutil.rmtree(target, ignore_errors=True)
        fresh.rename(target)
        sync_to_disk(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        why = getattr(error, "strerror", None) or error
        remedy = "free disk space; the run resumes from the checkpoint before"
        raise NotWritten(f"checkpoint {target.name}", f"could not be written ({why})", remedy) from error
    kept = {target, *_newest_first(folder)[:_KEPT]}
    for other in folder.iterdir():
        if other not in kept:
            shutil.rmtree(other, ignore_errors=True)
    return target


def _write(fresh: Path, state: LoopState) -> None:
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    once, twins = _without_twins(state.tensors)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in once.items()}, fresh / _TENSORS)
    values = dump_json({**state.values, **({_TWINS: twins} if twins else {})})
    hashes = {"tensors": _hash_of(fresh / _TENSORS), "values": hashlib.sha256(values.encode()).hexdigest()}
    (fresh / _VALUES).write_text(json.dumps({"sha256": hashes, "values": values}), encoding="utf-8")
    for path in (fresh / _TENSORS, fresh / _VALUES, fresh):
        sync_to_disk(path)


def load_checkpoint(folder: Path) -> LoopState | None:
    """The latest checkpoint that can be read, or None; a damaged one is passed over."""
    if not folder.is_dir():
        return None
    for path in _newest_first(folder):
        try:
            values = _whole_values(path)
            tensors = load_file(path / _TENSORS)
            twins = values.pop(_TWINS, {})
            return LoopState(tensors | {name: tensors[other] for name, other in twins.items()}, values)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            continue
    return None


def _without_twins(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, each once, and the other names of those that have several (what a teacher shares)."""
    once: dict[str, Tensor] = {}
    twins: dict[str, str] = {}
    names: dict[tuple[object, ...], str] = {}
    for name, tensor in tensors.items():
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape))
        first = names.setdefault(place, name) if tensor.numel() else name
        if first == name:
            once[name] = tensor
        else:
            twins[name] = first
    return once, twins


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def _whole_values(path: Path) -> dict[str, Any]:
    """The plain values of a checkpoint whose two parts are as they were written. Raises ValueError when not."""
    written = json.loads((path / _VALUES).read_text(encoding="utf-8"))
    text = str(written["values"])
    hashes = {"tensors": _hash_of(path / _TENSORS), "values": hashlib.sha256(text.encode()).hexdigest()}
    if written["sha256"] != hashes:
        raise ValueError(f"{path} is damaged")
    return dict(json.loads(text))


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
