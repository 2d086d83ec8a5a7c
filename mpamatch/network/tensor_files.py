"""Weight files of others: safetensors, or torch's format read without leave to build objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from mpamatch.errors import BadInput


def read_tensor_file(path: Path) -> Any:
    """What the file holds: tensors by name, if it is a plain one. Raises BadInput when it cannot be read."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what its reader comes across; whatever it is, this is no such file
        raise BadInput(str(path), "is not a plain weight file, or is damaged", "fetch it again") from error
