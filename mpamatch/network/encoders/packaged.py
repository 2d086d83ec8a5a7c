"""Pretrained weights in an installed package: found, checked by their hash, their keys brought to timm's names.

Key mapping of the EfficientNet-Lite0 file: its blocks are numbered flat and its batch norms from 0 (the layout of
the TensorFlow port); timm nests blocks by stage. Only ``tf_efficientnet_lite0`` has the padding of those weights.
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from mpamatch.errors import BadInput, NotFound
from mpamatch.network.encoders.records import WeightSource


def packaged_state(source: WeightSource, encoder: nn.Module) -> dict[str, Tensor]:
    """The file's tensors under the encoder's keys. Raises NotFound or BadInput when it is missing or another one."""
    raw = torch.load(checked_file(source), map_location="cpu", weights_only=True)
    state = {_timm_key(key): value for key, value in raw.items()}
    head = {key for key in state if key.startswith(("conv_head.", "bn2.", "classifier."))}
    wanted = set(encoder.state_dict())
    if wanted != set(state) - head:
        odd = sorted(wanted ^ (set(state) - head))[0]
        raise BadInput(source.file, f"key {odd} does not match the architecture", f"install {source.package} anew")
    return {key: state[key] for key in wanted}


def checked_file(source: WeightSource) -> Path:
    """The path of the file, whose hash is the record's. Raises NotFound or BadInput."""
    spec = importlib.util.find_spec(source.package)
    path = Path(spec.origin).parent / source.file if spec and spec.origin else None
    if path is None or not path.is_file():
        remedy = f"install the package {source.package.replace('_', '-')} or train with encoder tiny"
        raise NotFound(source.file, "pretrained weights are not installed", remedy)
    if hashlib.sha256(path.read_bytes()).hexdigest() != source.sha256:
        raise BadInput(str(path), "checksum differs from the record", f"install {source.package} anew")
    return path


_STAGE_REPEATS = (1, 2, 2, 3, 3, 4, 1)
_TOP_NAMES = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_PLAIN_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_EXPANDING_BLOCK = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _timm_key(key: str) -> str:
    """A key of the published file under timm's naming."""
    parts = key.split(".")
    if parts[0] != "_blocks":
        return ".".join([_TOP_NAMES.get(parts[0], parts[0]), *parts[1:]])
    stage, index = 0, int(parts[1])
    while index >= _STAGE_REPEATS[stage]:
        index -= _STAGE_REPEATS[stage]
        stage += 1
    names = _PLAIN_BLOCK if stage == 0 else _EXPANDING_BLOCK
    return ".".join(["blocks", str(stage), str(index), names[parts[2]], *parts[3:]])
