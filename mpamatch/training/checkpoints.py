"""Where a run resumes: one folder per checkpoint, written whole or not at all; the one module here that stores state.

A checkpoint is ``step-000120/`` with ``tensors.safetensors`` and ``state.json``. It is written under another name,
synced and renamed, so that a kill at any moment leaves the earlier one; older ones go afterwards.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from mpamatch.network.weights import dump_json, sync_to_disk
from mpamatch.training.loop import LoopState

_TENSORS, _VALUES = "tensors.safetensors", "state.json"
_NAME = re.compile(r"step-(\d{6,})")


def save_checkpoint(folder: Path, state: LoopState) -> Path:
    """Write a checkpoint into ``folder`` and drop the earlier ones; the path written."""
    target = folder / f"step-{state.values['step']:06d}"
    fresh = folder / f"{target.name}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}, fresh / _TENSORS)
    (fresh / _VALUES).write_text(dump_json(state.values), encoding="utf-8")
    for path in (fresh / _TENSORS, fresh / _VALUES, fresh):
        sync_to_disk(path)
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    sync_to_disk(folder)
    for other in folder.iterdir():
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
    return target


def load_checkpoint(folder: Path) -> LoopState | None:
    """The latest checkpoint that can be read, or None; a damaged one is passed over."""
    if not folder.is_dir():
        return None
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    for path in sorted(found, key=lambda p: int(p.name[5:]), reverse=True):
        try:
            values = json.loads((path / _VALUES).read_text(encoding="utf-8"))
            return LoopState(load_file(path / _TENSORS), values)
        except (OSError, ValueError, SafetensorError):
            continue
    return None
